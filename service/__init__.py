"""todochat: users, todos, conversations, messages and their links, kept in PostgreSQL for todo chatbots."""
