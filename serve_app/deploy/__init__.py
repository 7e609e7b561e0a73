"""Starting Ray Serve and HAProxy, and the deploy file."""
