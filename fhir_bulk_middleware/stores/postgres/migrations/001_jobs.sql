-- Jobs, version 1. The columns of `job`, `slice` and `part` are the fields of `contract/job_record.py`, which says what they hold.
-- `text` columns hold what `texts.py` makes of a string. Columns named `..._key` are SHA-256 digests (`texts.py`) of values that may
-- be longer than an index takes.

-- The versions of this schema. `code` is the oldest version of the code, as the number of its newest migration, that may use it.
CREATE TABLE schema_version (
    version integer PRIMARY KEY,
    code integer NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO schema_version (version, code) VALUES (1, 1);

-- The store's own id, and who works on it (law 32): one registration for each mount.
CREATE TABLE store (id text NOT NULL);

INSERT INTO store (id) VALUES (replace(gen_random_uuid()::text, '-', ''));

CREATE TABLE registration (
    mount_key bytea PRIMARY KEY,
    content text NOT NULL
);

-- When each owner was last given work, by the order of `turn_number`. The row is also the lock under which an owner's jobs are
-- counted and added, so an owner with jobs has one.
CREATE TABLE turn (
    owner_key bytea PRIMARY KEY,
    served bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

CREATE SEQUENCE turn_number;

-- The hot row: all that a poll reads, found by its id. `owner_key` is the digest of the owner, `place_key` of owner and mount.
CREATE TABLE job (
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" PRIMARY KEY,
    owner_key bytea NOT NULL,
    place_key bytea NOT NULL,
    adapter_key bytea NOT NULL,
    mount text NOT NULL,
    adapter text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL,
    client text NOT NULL,
    state text NOT NULL,
    revision bigint NOT NULL,
    created_at bigint NOT NULL,
    changed_at bigint NOT NULL,
    kept_for bigint NOT NULL,
    cut bigint,
    codec text,
    estimate bigint NOT NULL,
    done bigint NOT NULL,
    reason text,
    detail text,
    idempotency_key text,
    fingerprint text,
    more integer NOT NULL,
    unfinished bigint,
    unfinished_at bigint,
    request text NOT NULL,
    plannings integer NOT NULL DEFAULT 0, -- attempts at planning so far, above which those of the next round are numbered
    reclaimed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);

CREATE INDEX job_working ON job (owner_key, adapter_key) WHERE state IN ('queued', 'running');

-- The lists of one owner's jobs, and of all jobs, newest first.
CREATE INDEX job_owned ON job (place_key, created_at, id) WHERE state IN ('queued', 'running', 'completed', 'failed');

CREATE INDEX job_kept ON job (adapter_key, created_at, id);

-- A client's key counts as long as its job can be polled (law 12).
CREATE UNIQUE INDEX job_idempotency ON job (place_key, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state NOT IN ('cancelled', 'expired');

-- Asked before an owner's turn is forgotten.
CREATE INDEX job_owner ON job (owner_key);

CREATE INDEX job_due ON job (adapter_key, (changed_at + kept_for)) WHERE state IN ('completed', 'failed');

CREATE INDEX job_changed ON job (adapter_key, state, changed_at);

CREATE INDEX job_reclaimable ON job (adapter_key, changed_at)
    WHERE NOT reclaimed AND state IN ('cancelled', 'expired', 'failed');

-- The rows of a job (`rows_content`): large, read by workers only.
CREATE TABLE job_rows (
    job_id text COLLATE "C" PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    content bytea NOT NULL
);

CREATE TABLE slice (
    job_id text COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number integer NOT NULL,
    kind text NOT NULL,
    type text NOT NULL,
    range text NOT NULL,
    estimate bigint NOT NULL,
    cursor text,
    parts integer NOT NULL,
    origin text NOT NULL,
    cache_key text,
    fingerprint text,
    PRIMARY KEY (job_id, number)
);

-- The slices whose files a later job may link.
CREATE INDEX slice_cache_key ON slice (cache_key) WHERE cache_key IS NOT NULL;

CREATE TABLE part (
    job_id text COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    slice integer NOT NULL,
    number integer NOT NULL,
    file_id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    type text NOT NULL,
    key text NOT NULL,
    codec text NOT NULL,
    count bigint NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    stored_size bigint NOT NULL,
    sealed_at bigint NOT NULL,
    flush_points bytea NOT NULL,
    severity text,
    continued_in text,
    references_key text,
    references_size bigint NOT NULL,
    written_as text NOT NULL,
    PRIMARY KEY (job_id, slice, number),
    UNIQUE (job_id, file_id)
);

-- Open work and its holder; slice -1 is the planning of the job. Only work that is left has a row, so finding some is cheap, and a
-- lease is current exactly while a row has its worker and attempt. `excused` attempts do not count as tries. `done` is the highest
-- count of any attempt. `adapter_key` is the job's. `leased_for` is the length of the lease in microseconds (`LEASE_SLACK`).
CREATE TABLE work (
    job_id text COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    slice integer NOT NULL,
    adapter_key bytea NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    excused integer NOT NULL DEFAULT 0,
    worker text,
    leased_until bigint,
    leased_for bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0,
    cause text,
    PRIMARY KEY (job_id, slice)
) WITH (fillfactor = 70);

CREATE INDEX work_adapter ON work (adapter_key);
