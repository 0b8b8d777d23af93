"""Who clients of this proxy are: by a password, or by a certificate."""
