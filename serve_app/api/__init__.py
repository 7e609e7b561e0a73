"""The HTTP application: routes, what they take, and what they answer."""
