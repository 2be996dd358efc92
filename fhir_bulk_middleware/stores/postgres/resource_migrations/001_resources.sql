-- Resources with their versions, version 1. The tables and functions of `cut.py` are made before it.
--
-- The key of a version, `seq`, has the number of its type in the high bits and a counter in the low 40, so the versions of a type are
-- one range of keys. A later version of a resource has a higher key. Versions of different resources have about the order in which
-- they were written, and no read relies on more than that.

-- What `bulk_instant` reads is in this schema, whatever the search path of its caller is.
ALTER FUNCTION bulk_instant(bigint) SET search_path FROM CURRENT;

-- The versions of this schema. `code` is the oldest version of the code, as the number of its newest migration, that may use it.
CREATE TABLE resource_schema_version (
    version integer PRIMARY KEY,
    code integer NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO resource_schema_version (version, code) VALUES (1, 1);

-- The numbers of types. A row is written in a transaction of its own, so that no writer waits for another one's new type.
CREATE TABLE resource_type (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- The search parameters of a type that are indexed. They are registered with the type, before its first version is written.
CREATE TABLE resource_posting_parameter (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    UNIQUE (type, name)
);

CREATE SEQUENCE resource_counter;

-- The versions. `stamp` is `meta.lastUpdated` and `writer` the transaction that wrote the version (`cut.py`); `ended` and `ended_by`
-- are those of the next version. `owners` are its compartments. `moved` marks a version whose compartments are not those of the
-- version before it. `size` is in bytes. A deletion has no text and no compartments.
CREATE TABLE resource (
    seq bigint PRIMARY KEY,
    stamp bigint NOT NULL,
    writer xid8 NOT NULL,
    ended bigint NOT NULL DEFAULT 9223372036854775807,
    ended_by xid8,
    type integer NOT NULL,
    number integer NOT NULL,
    size integer NOT NULL,
    deleted boolean NOT NULL,
    in_patient boolean NOT NULL,
    moved boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    owners text[] NOT NULL,
    json text NOT NULL
);

CREATE UNIQUE INDEX resource_number ON resource (type, id, number);

-- What was written within a window, by both halves of its condition (`Seen.excludes`).
CREATE INDEX resource_stamp ON resource (type, stamp);

CREATE INDEX resource_writer ON resource (type, writer);

CREATE INDEX resource_deleted ON resource (seq) WHERE deleted;

CREATE INDEX resource_outside ON resource (seq) WHERE NOT in_patient AND NOT deleted;

CREATE INDEX resource_moved ON resource (seq) WHERE moved;

CREATE INDEX resource_superseded ON resource (ended) WHERE ended < 9223372036854775807;

-- The compartments of each version by their owner, so that the cost of an export of some patients depends on their resources alone.
CREATE TABLE resource_compartment (
    owner text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (owner, seq)
);

-- The targets of each version of a Provenance.
CREATE TABLE resource_target (
    type text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (type, id, seq)
);

CREATE INDEX resource_target_seq ON resource_target (seq);

-- What each version names that no patient owns; `target` is a digest (`naming_index.py`).
CREATE TABLE resource_naming (
    target bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (target, seq)
);

-- The versions in each block of 256 keys that have a value of an indexed parameter (`resource_postings.py`): a byte for each. A
-- transaction adds rows and changes none, so a block may have several.
CREATE TABLE resource_posting (
    parameter integer NOT NULL,
    value integer NOT NULL,
    block bigint NOT NULL,
    places bytea NOT NULL
);

CREATE INDEX resource_posting_value ON resource_posting (parameter, value, block);

-- How many versions, living resources and bytes there are in each block of 256 keys, as a sum over rows: a transaction adds rows and
-- changes none, so that no writer waits for another. Whoever plans an export folds many rows into one.
CREATE TABLE resource_extent (
    block bigint NOT NULL,
    versions bigint NOT NULL,
    live bigint NOT NULL,
    in_patient bigint NOT NULL,
    size bigint NOT NULL
);

CREATE INDEX resource_extent_block ON resource_extent (block);

-- The base URLs below which an absolute reference leads to this store; compartments, targets and names are computed with them.
CREATE TABLE resource_base (url text COLLATE "C" PRIMARY KEY);

-- The deletion horizon: since when all deletions are known, and when it was announced.
CREATE TABLE resource_horizon (
    one integer PRIMARY KEY CHECK (one = 1),
    since bigint NOT NULL,
    announced bigint NOT NULL
);

-- The outcomes of asynchronous remove-alls, one letter for each resource of a batch; and the runs that ended.
CREATE TABLE resource_removal (
    run text NOT NULL,
    number integer NOT NULL,
    outcomes text NOT NULL,
    PRIMARY KEY (run, number)
);

CREATE TABLE resource_removal_run (
    run text PRIMARY KEY,
    cancelled boolean NOT NULL
);

-- Reports of removals, kept until observers know of them; and who holds the lease on the oldest ones, at most one row.
CREATE TABLE resource_report (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    note text NOT NULL,
    at bigint NOT NULL,
    type text NOT NULL,
    ids text[] NOT NULL
);

CREATE TABLE resource_teller (
    one integer PRIMARY KEY CHECK (one = 1),
    name text NOT NULL,
    until bigint NOT NULL
);
