-- Jobs, version 1. The columns of `job`, `slice` and `part` are the fields of `contract/job_record.py`, which says what they hold.

-- The store's own id, and who works on it (law 32): one row for each mount.
CREATE TABLE store (id TEXT NOT NULL);

INSERT INTO store (id) VALUES (lower(hex(randomblob(16))));

CREATE TABLE registration (
    mount TEXT PRIMARY KEY,
    content TEXT NOT NULL
) WITHOUT ROWID;

-- The hot row: all that a poll reads, found by its id.
CREATE TABLE job (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    mount TEXT NOT NULL,
    adapter TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    kept_for INTEGER NOT NULL,
    cut INTEGER,
    codec TEXT,
    estimate INTEGER NOT NULL,
    done INTEGER NOT NULL,
    reason TEXT,
    detail TEXT,
    idempotency_key TEXT,
    fingerprint TEXT,
    more INTEGER NOT NULL,
    unfinished INTEGER,
    unfinished_at INTEGER,
    request TEXT NOT NULL,
    plannings INTEGER NOT NULL DEFAULT 0, -- attempts at planning so far, above which those of the next round are numbered
    reclaimed INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX job_owner ON job (issuer, subject, client, state, adapter);

-- The lists of one owner's jobs, and of all jobs, newest first; what is listed is read from the table.
CREATE INDEX job_owned ON job (issuer, subject, client, mount, created_at, id)
    WHERE state IN ('queued', 'running', 'completed', 'failed');

CREATE INDEX job_kept ON job (adapter, created_at, id);

-- A client's key counts as long as its job can be polled (law 12).
CREATE UNIQUE INDEX job_idempotency ON job (issuer, subject, client, mount, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state NOT IN ('cancelled', 'expired');

CREATE INDEX job_due ON job (adapter, changed_at + kept_for) WHERE state IN ('completed', 'failed');

CREATE INDEX job_changed ON job (adapter, state, changed_at);

CREATE INDEX job_reclaimable ON job (adapter, changed_at) WHERE reclaimed = 0 AND state IN ('cancelled', 'expired', 'failed');

-- The rows of a job (`rows_content`): large, read by workers only.
CREATE TABLE job_rows (
    job_id TEXT PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    content BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE slice (
    job_id TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    range TEXT NOT NULL,
    estimate INTEGER NOT NULL,
    cursor TEXT,
    parts INTEGER NOT NULL,
    origin TEXT NOT NULL,
    cache_key TEXT,
    fingerprint TEXT,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- The slices whose files a later job may link.
CREATE INDEX slice_cache_key ON slice (cache_key) WHERE cache_key IS NOT NULL;

CREATE TABLE part (
    job_id TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    slice INTEGER NOT NULL,
    number INTEGER NOT NULL,
    file_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    codec TEXT NOT NULL,
    count INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    stored_size INTEGER NOT NULL,
    sealed_at INTEGER NOT NULL,
    flush_points BLOB NOT NULL,
    severity TEXT,
    continued_in TEXT,
    references_key TEXT,
    references_size INTEGER NOT NULL,
    written_as TEXT NOT NULL,
    PRIMARY KEY (job_id, slice, number),
    UNIQUE (job_id, file_id)
) WITHOUT ROWID;

-- The bytes of all parts, without reading the parts, whose flush points are large. Links to the same bytes count once.
CREATE INDEX part_kept ON part (job_id, written_as, stored_size);

-- Open work and its holder; slice -1 is the planning of the job. Only work that is left has a row, so finding some is cheap, and a
-- lease is current exactly while a row has its worker and attempt. `excused` attempts do not count as tries. `done` is the highest
-- count of any attempt. `adapter` is the job's. `leased_for` is the length of the lease in microseconds (`LEASE_SLACK`).
CREATE TABLE work (
    job_id TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    slice INTEGER NOT NULL,
    adapter TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    excused INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    leased_until INTEGER,
    leased_for INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    cause TEXT,
    PRIMARY KEY (job_id, slice)
) WITHOUT ROWID;

CREATE INDEX work_adapter ON work (adapter);

-- However a job ends, all leases on it are lost in the same transaction (law 18). One line: scripts are split at `;` and line end.
CREATE TRIGGER job_ended AFTER UPDATE OF state ON job WHEN new.state NOT IN ('queued', 'running') BEGIN DELETE FROM work WHERE job_id = new.id; END;

-- When each owner was last given work, as a count of turns.
CREATE TABLE turn (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    served INTEGER NOT NULL,
    PRIMARY KEY (issuer, subject, client)
) WITHOUT ROWID;

CREATE INDEX turn_served ON turn (served);
