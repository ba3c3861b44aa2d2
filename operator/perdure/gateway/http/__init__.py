"""HTTP machinery of every route family: endpoints, request bodies, streamed responses, problems, limits.

Nothing here knows a family, its identities or its resources.
"""
