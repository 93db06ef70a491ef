"""Who is calling, proven: `setup.setup_auth` puts it into an application, `authenticate.Authenticator` answers."""
