"""The Agentic Transformer: an agent that learns within its context, on an exact ring-attention
backbone.
"""
