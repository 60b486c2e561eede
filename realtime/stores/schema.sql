-- The sample table: a blog's entries. Made if it is missing; what is there already is never altered.
CREATE TABLE IF NOT EXISTS public.entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    title text NOT NULL,
    markdown text NOT NULL DEFAULT '',
    published timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now()
);
