-- Accounts, and what they sign in with. Whoever changes a row of the first three, each node is told of it.
CREATE SCHEMA IF NOT EXISTS _realtime;

CREATE TABLE _realtime.users (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{1,64}$'),
    email text NOT NULL UNIQUE CHECK (email !~ '[A-Z]'),
    name text NOT NULL DEFAULT '',
    password text,  -- argon2id; null: none yet, a link signs in
    roles text[] NOT NULL DEFAULT '{}',
    disabled boolean NOT NULL DEFAULT false,
    created timestamptz NOT NULL DEFAULT now()
);

-- `secret` is the SHA-256 of what was given out, here and below.
CREATE TABLE _realtime.sign_ins (
    id text PRIMARY KEY,
    secret bytea NOT NULL UNIQUE,
    user_id text NOT NULL REFERENCES _realtime.users ON DELETE CASCADE,
    created timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL
);
CREATE INDEX ON _realtime.sign_ins (user_id);
CREATE INDEX ON _realtime.sign_ins (expires);

CREATE TABLE _realtime.tokens (
    id text PRIMARY KEY,
    secret bytea NOT NULL UNIQUE,
    user_id text NOT NULL REFERENCES _realtime.users ON DELETE CASCADE,
    name text NOT NULL,
    scopes text[] NOT NULL,
    start text NOT NULL,  -- the first characters, to tell one from another
    created timestamptz NOT NULL DEFAULT now(),
    expires timestamptz,
    used timestamptz
);
CREATE INDEX ON _realtime.tokens (user_id);

CREATE TABLE _realtime.links (
    user_id text PRIMARY KEY REFERENCES _realtime.users ON DELETE CASCADE,
    secret bytea NOT NULL UNIQUE,
    expires timestamptz NOT NULL
);

CREATE TABLE _realtime.cookie_secrets (
    id integer PRIMARY KEY,
    secret text NOT NULL
);

-- The argument is the column that has the user's id. That a token was used concerns nobody.
CREATE FUNCTION _realtime.tell_accounts() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    before jsonb := CASE WHEN tg_op IN ('UPDATE', 'DELETE') THEN to_jsonb(old) - 'used' END;
    after jsonb := CASE WHEN tg_op IN ('UPDATE', 'INSERT') THEN to_jsonb(new) - 'used' END;
BEGIN
    IF tg_op = 'TRUNCATE' THEN
        PERFORM pg_notify('realtime_accounts', '');
    ELSIF before IS DISTINCT FROM after THEN
        PERFORM pg_notify('realtime_accounts', state ->> tg_argv[0])
        FROM unnest(ARRAY[before, after]) AS state WHERE state IS NOT NULL;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON _realtime.users
    FOR EACH ROW EXECUTE FUNCTION _realtime.tell_accounts('id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON _realtime.sign_ins
    FOR EACH ROW EXECUTE FUNCTION _realtime.tell_accounts('user_id');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON _realtime.tokens
    FOR EACH ROW EXECUTE FUNCTION _realtime.tell_accounts('user_id');

CREATE TRIGGER tell_all AFTER TRUNCATE ON _realtime.users EXECUTE FUNCTION _realtime.tell_accounts();
CREATE TRIGGER tell_all AFTER TRUNCATE ON _realtime.sign_ins EXECUTE FUNCTION _realtime.tell_accounts();
CREATE TRIGGER tell_all AFTER TRUNCATE ON _realtime.tokens EXECUTE FUNCTION _realtime.tell_accounts();
