"""Choose what is sent as Authorization (logins and tokens), and handle refused credentials."""
