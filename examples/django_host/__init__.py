"""A clinic in Django, with bulk export around its ASGI application."""
