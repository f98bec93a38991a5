-- Drop the domains and functions. Refused while a table uses them.

SET LOCAL ROLE todochat_owner;

DROP DOMAIN
    public.action, public.relationship_type, public.message_type, public.sender_type, public.priority, public.status,
    public.metadata, public.item, public.content, public.description, public.title, public.ordinal, public.moment;
DROP FUNCTION
    public.refuse_change(), public.touch(), public.metadata_is_valid(jsonb), public.visible_length(text), public.uuid7();
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
