"""Where the page is served, and how a password is given."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
AUTH = "VECTORFIT_APP_AUTH"  # the environment variable with USER:PASSWORD
