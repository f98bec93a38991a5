-- Drop the function that turns call. Nothing is lost; the release that offers turns must be gone before.

SET LOCAL ROLE todochat_owner;

DROP FUNCTION public.expect_position(uuid, uuid, integer);
