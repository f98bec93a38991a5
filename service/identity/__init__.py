"""Who is asking: tokens, passwords, outside issuers and their keys."""
