-- Users with a name, an address and one password for all.
-- param seed: integer
-- param users: integer, how many users there are in all
-- param first: integer, the number of the first user to make
-- param last: integer, the number of the last one
-- param password_hash: text

INSERT INTO public.users (id, email, username, full_name, password_hash, created_at, updated_at)
SELECT
    u.id,
    n.username || '@demo.example',
    n.username,
    public.demo_pick(
        ARRAY['Ada', 'Alan', 'Barbara', 'Claude', 'Donald', 'Edsger', 'Frances', 'Grace', 'Hedy', 'Jean', 'Ken',
            'Lynn'],
        public.demo_random(u.number, 1)
    ) || ' ' || public.demo_pick(
        ARRAY['Ahmed', 'Becker', 'Castro', 'Dubois', 'Eriksen', 'Fischer', 'Garcia', 'Haddad', 'Ito', 'Jensen', 'Kim',
            'Li'],
        public.demo_random(u.number, 2)
    ),
    %(password_hash)s::text,
    u.created_at,
    u.created_at
FROM public.demo_users(%(seed)s, %(users)s, %(first)s, %(last)s) AS u
CROSS JOIN LATERAL (
    SELECT 'seed' || %(seed)s::integer || '-user' || lpad(u.number::text, greatest(5, length(u.number::text)), '0')
) AS n (username)
ORDER BY u.number;
