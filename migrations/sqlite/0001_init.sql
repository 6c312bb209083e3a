-- Times are epoch milliseconds, ids 16 bytes. The queue tables are clustered by their key.
-- Words are compared one by one: for a list of three or more SQLite makes a table anew for each row that it checks.

CREATE TABLE tenants (
    id         BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id         BLOB PRIMARY KEY,
    tenant_id  BLOB NOT NULL,
    name       TEXT,
    prefix     TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    queues     TEXT,
    accounts   TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, id) WHERE revoked_at IS NULL;
CREATE INDEX api_keys_end ON api_keys (COALESCE(revoked_at, expires_at)) WHERE COALESCE(revoked_at, expires_at) IS NOT NULL;

-- Signing secrets, sealed. owner_id is the endpoint, or the tenant itself for its default secret.
CREATE TABLE secrets (
    id         BLOB PRIMARY KEY,
    tenant_id  BLOB NOT NULL,
    owner_id   BLOB NOT NULL,
    sealed     BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX secrets_owner ON secrets (owner_id, created_at);
CREATE INDEX secrets_expiry ON secrets (expires_at) WHERE expires_at IS NOT NULL;

-- A standing endpoint. account is '' where it has none. due_at of its parked deliveries is theirs + 2^52.
CREATE TABLE endpoints (
    id              BLOB PRIMARY KEY,
    tenant_id       BLOB NOT NULL,
    account         TEXT NOT NULL,
    -- those that it had before, a list: its deliveries keep theirs
    former_accounts TEXT,
    url             TEXT NOT NULL,
    description     TEXT,
    patterns        TEXT NOT NULL,
    -- its headers
    sealed          BLOB,
    rate_per_second INTEGER,
    max_in_flight   INTEGER,
    timeout_seconds INTEGER NOT NULL,
    ordered         INTEGER NOT NULL,
    policy          TEXT NOT NULL,
    payload         TEXT NOT NULL,
    format          TEXT NOT NULL,
    schemes         TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state = 'enabled' OR state = 'paused' OR state = 'disabled'),
    state_reason    TEXT,
    state_since     INTEGER NOT NULL,
    verified_at     INTEGER,
    -- since its last success: when the first attempt failed, how many deliveries have failed, what has been told
    failing_since   INTEGER,
    failed          INTEGER NOT NULL,
    told            TEXT NOT NULL CHECK (told = 'nothing' OR told = 'day' OR told = 'three-days' OR told = 'disabled'),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    deleted_at      INTEGER,
    -- the next step of letting its parked deliveries go, or of cancelling a deleted one's
    drain_at        INTEGER,
    drain_step      INTEGER NOT NULL
) STRICT;
CREATE INDEX endpoints_tenant ON endpoints (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_account ON endpoints (tenant_id, account, id) WHERE deleted_at IS NULL;
-- each delivery asks whether its endpoint is one of these; UNIQUE, or SQLite would take the key of all instead
CREATE UNIQUE INDEX endpoints_failing ON endpoints (id) WHERE failing_since IS NOT NULL;
-- for lists: those that are not told, among many that are
CREATE INDEX endpoints_off ON endpoints (tenant_id, id) WHERE state <> 'enabled' AND deleted_at IS NULL;
CREATE INDEX endpoints_drain ON endpoints (drain_at) WHERE drain_at IS NOT NULL;

-- The document of a job: written at submission and at its end, not in between.
CREATE TABLE jobs (
    id                BLOB PRIMARY KEY,
    tenant_id         BLOB NOT NULL,
    kind              TEXT NOT NULL,
    queue             TEXT NOT NULL,
    reference         TEXT,
    priority          INTEGER NOT NULL,
    worker            TEXT NOT NULL,
    input             TEXT,
    callback          TEXT,
    sealed            BLOB,
    run_at            INTEGER,
    deadline_at       INTEGER,
    timeout_seconds   INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    metadata          TEXT NOT NULL,
    retain_seconds    INTEGER NOT NULL,
    traceparent       TEXT,
    estimated_seconds INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    -- 'owed' while a row of job_queue tells the rest
    state             TEXT NOT NULL CHECK (state = 'owed' OR state = 'complete' OR state = 'failed' OR state = 'cancelled'
                                            OR state = 'expired'),
    attempt           INTEGER NOT NULL,
    sequence          INTEGER NOT NULL,
    version           INTEGER NOT NULL,
    fence             INTEGER NOT NULL,
    token             BLOB,
    started_at        INTEGER,
    started_sequence  INTEGER,
    ended_at          INTEGER,
    error             TEXT,
    error_code        TEXT,
    error_retryable   INTEGER,
    result            BLOB,
    result_type       TEXT,
    result_url        TEXT,
    -- the delivery of the terminal event
    delivery_id       BLOB,
    expires_at        INTEGER,
    -- past it the job is gone; expires_at, put off while a delivery or a dead letter needs the job
    remove_at         INTEGER,
    purged_at         INTEGER
) STRICT;
CREATE INDEX jobs_tenant ON jobs (tenant_id, id);
CREATE INDEX jobs_reference ON jobs (tenant_id, reference, id) WHERE reference IS NOT NULL;
CREATE INDEX jobs_removal ON jobs (remove_at) WHERE remove_at IS NOT NULL;
-- for lists: what is owed, and what did not end well, among millions that did
CREATE INDEX jobs_owed ON jobs (tenant_id, id) WHERE state = 'owed';
CREATE INDEX jobs_failed ON jobs (tenant_id, id) WHERE state = 'failed';
CREATE INDEX jobs_cancelled ON jobs (tenant_id, id) WHERE state = 'cancelled';
CREATE INDEX jobs_expired ON jobs (tenant_id, id) WHERE state = 'expired';

-- One row per job that is owed. due_at is schedule time and end of the lease in one:
-- a dead worker returns its job by doing nothing.
CREATE TABLE job_queue (
    job_id           BLOB PRIMARY KEY,
    tenant_id        BLOB NOT NULL,
    queue            TEXT NOT NULL,
    level            INTEGER NOT NULL,
    due_at           INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    phase            TEXT NOT NULL CHECK (phase = 'ready' OR phase = 'leased' OR phase = 'retry'),
    fence            INTEGER NOT NULL,
    token            BLOB,
    attempt          INTEGER NOT NULL,
    attempts_left    INTEGER NOT NULL,
    sequence         INTEGER NOT NULL,
    version          INTEGER NOT NULL,
    wants            INTEGER NOT NULL,
    lease_seconds    INTEGER NOT NULL,
    timeout_ms       INTEGER NOT NULL,
    started_at       INTEGER,
    started_sequence INTEGER,
    -- the attempt before this one, when this claim took over an expired lease
    lost_at          INTEGER,
    lost_sequence    INTEGER,
    progress         INTEGER,
    progress_at      INTEGER,
    -- progress that came too soon after that is told then
    progress_due     INTEGER,
    message          TEXT,
    error            TEXT,
    error_code       TEXT,
    worker_id        TEXT,
    deadline_at      INTEGER,
    cancel_at        INTEGER,
    cancel_reason    TEXT,
    -- the sweep looks at the row then: deadline, time-out, end of the cancel grace or progress that is due
    watch_at         INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX job_queue_due ON job_queue (tenant_id, queue, level, due_at);
CREATE INDEX job_queue_kind ON job_queue (tenant_id, queue, level, kind, due_at);
CREATE INDEX job_queue_watch ON job_queue (watch_at) WHERE watch_at IS NOT NULL;
CREATE INDEX job_queue_lost ON job_queue (due_at) WHERE attempts_left = 0;
-- the leases that hold now: what a queue has under way, for its limit and for people
CREATE INDEX job_queue_leased ON job_queue (tenant_id, queue, due_at) WHERE phase = 'leased';

-- What someone set for a queue; most queues have no row. paused_until is the last instant there is for "until resumed".
CREATE TABLE queues (
    tenant_id     BLOB NOT NULL,
    name          TEXT NOT NULL,
    paused_until  INTEGER,
    max_in_flight INTEGER,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

-- What the last jobs told, written by each node every few seconds: of a type the whole seconds from
-- being owed to the end, of a queue the milliseconds of wait and of run. Numbers between blanks, the newest last.
CREATE TABLE learned (
    tenant_id  BLOB NOT NULL,
    what       TEXT NOT NULL CHECK (what = 'type' OR what = 'wait' OR what = 'run'),
    name       TEXT NOT NULL,
    samples    TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, what, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX learned_age ON learned (updated_at);

CREATE TABLE idempotency (
    tenant_id   BLOB NOT NULL,
    route       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    -- the job, or whatever else the first request made
    job_id      BLOB NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, route, key)
) STRICT;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- What happened. The first job.queued and the job.started of a running or last attempt are
-- told by the job's own columns and stand here only when a receiver asked for them.
CREATE TABLE events (
    id         BLOB NOT NULL UNIQUE,
    tenant_id  BLOB NOT NULL,
    job_id     BLOB,
    sequence   INTEGER,
    kind       TEXT NOT NULL,
    account    TEXT,
    created_at INTEGER NOT NULL,
    data       TEXT NOT NULL,
    -- the order of the commits, by which the feed pages; never given twice, or a new event would hide behind a cursor
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    -- how many a published one had
    deliveries INTEGER,
    -- set where no job keeps it
    remove_at  INTEGER
) STRICT;
CREATE INDEX events_feed ON events (tenant_id, position, id)
    WHERE kind <> 'job.queued' AND kind <> 'job.started' AND kind <> 'webhook.test' AND kind <> 'webhook.verify';
CREATE INDEX events_removal ON events (remove_at) WHERE remove_at IS NOT NULL;
CREATE INDEX events_job ON events (job_id, sequence) WHERE job_id IS NOT NULL;

-- The last event that was removed from a tenant's feed: whoever has not read so far has missed some.
CREATE TABLE feed_marks (
    tenant_id BLOB PRIMARY KEY,
    position  INTEGER NOT NULL,
    event_id  BLOB NOT NULL
) STRICT;

-- An event that has more endpoints than the transaction that tells it: who is to get this variant of its body, the ids as
-- they were then, 16 bytes each, and how many have their delivery.
CREATE TABLE fan_outs (
    event_id    BLOB NOT NULL,
    variant     TEXT NOT NULL,
    tenant_id   BLOB NOT NULL,
    -- what the deliveries are listed by; an event that tells of a job's delivery is none of the job's own
    job_id      BLOB,
    traceparent TEXT,
    created_at  INTEGER NOT NULL,
    done        INTEGER NOT NULL,
    -- one that cannot be told is put off
    due_at      INTEGER NOT NULL,
    -- last: it may be long, and most questions are not for it
    endpoints   BLOB NOT NULL,
    PRIMARY KEY (event_id, variant)
) STRICT;
-- Tenants take turns.
CREATE INDEX fan_outs_tenant ON fan_outs (tenant_id, event_id, variant);
-- A job is kept until all have heard of it.
CREATE INDEX fan_outs_job ON fan_outs (job_id) WHERE job_id IS NOT NULL;

-- The frozen bytes, once per event and variant, shared by all deliveries that send them.
CREATE TABLE bodies (
    event_id BLOB NOT NULL,
    variant  TEXT NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (event_id, variant)
) STRICT;

CREATE TABLE deliveries (
    id             BLOB PRIMARY KEY,
    tenant_id      BLOB NOT NULL,
    event_id       BLOB NOT NULL,
    variant        TEXT NOT NULL,
    event_kind     TEXT NOT NULL,
    job_id         BLOB,
    endpoint_id    BLOB,
    account        TEXT,
    lane_id        BLOB NOT NULL,
    -- what takes turns within the lane: the hash of an ad-hoc URL, the number in an ordered lane
    turn           INTEGER NOT NULL,
    url            TEXT NOT NULL,
    host           TEXT NOT NULL,
    sealed         BLOB,
    sealed_row     BLOB,
    -- the endpoint whose secrets sign; the tenant's default secret where nothing else does
    signer_id      BLOB,
    -- NULL: the contract's own
    policy         TEXT,
    failure_url    TEXT,
    traceparent    TEXT,
    expires_at     INTEGER,
    created_at     INTEGER NOT NULL,
    -- 'owed' while a row of delivery_queue tells the rest
    state          TEXT NOT NULL CHECK (state = 'owed' OR state = 'delivered' OR state = 'dead' OR state = 'cancelled'),
    version        INTEGER NOT NULL,
    fence          INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    last_status    INTEGER,
    first_error    TEXT,
    last_error     TEXT,
    ended_at       INTEGER,
    discarded_at   INTEGER,
    remove_at      INTEGER
) STRICT;
CREATE INDEX deliveries_tenant ON deliveries (tenant_id, id);
CREATE INDEX deliveries_job ON deliveries (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX deliveries_event ON deliveries (event_id);
-- account by account: an event goes to endpoints of one, so its deliveries lie side by side. Endpoint by endpoint each of
-- them would be written to a page of its own.
CREATE INDEX deliveries_account ON deliveries (tenant_id, account, id, endpoint_id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX deliveries_removal ON deliveries (remove_at) WHERE remove_at IS NOT NULL;
CREATE INDEX deliveries_owed ON deliveries (tenant_id, id) WHERE state = 'owed';
-- not by the state as the one of what is owed, or PostgreSQL may take that and walk all of it
CREATE INDEX deliveries_expiry ON deliveries (expires_at) WHERE ended_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX deliveries_dead ON deliveries (tenant_id, id) WHERE state = 'dead';
CREATE INDEX deliveries_cancelled ON deliveries (tenant_id, id) WHERE state = 'cancelled';

-- One row per delivery that is owed.
CREATE TABLE delivery_queue (
    delivery_id BLOB PRIMARY KEY,
    tenant_id   BLOB NOT NULL,
    lane_id     BLOB NOT NULL,
    turn        INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    phase       TEXT NOT NULL CHECK (phase IN ('ready', 'leased')),
    fence       INTEGER NOT NULL,
    -- requests begun over all rounds, and those that the policy of this round counts
    attempt     INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    unknowns    INTEGER NOT NULL,
    -- a new round was asked for while a request was under way
    again       INTEGER NOT NULL DEFAULT 0,
    started_at  INTEGER,
    node_id     BLOB,
    -- what a lane owes is read rank by rank: 0 and 1 what has no turn, 2 and 3 what has one; first attempts before retries
    rank        INTEGER GENERATED ALWAYS AS (CASE WHEN turn = 0 THEN 0 ELSE 2 END + CASE WHEN attempt = 0 THEN 0 ELSE 1 END) VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_queue_due ON delivery_queue (due_at);
-- one index for all that waits in lanes of endpoints without order: each more is a page more for each delivery that waits
CREATE INDEX delivery_queue_lane ON delivery_queue (lane_id, rank, due_at);
-- from one URL of a lane to the next, however much each of them owes; and the next in order
CREATE INDEX delivery_queue_turn ON delivery_queue (lane_id, turn, due_at) WHERE turn <> 0;

CREATE TABLE attempts (
    delivery_id BLOB NOT NULL,
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER,
    phases      TEXT,
    address     TEXT,
    status      INTEGER,
    error       TEXT,
    headers     TEXT,
    body        BLOB,
    next_at     INTEGER,
    PRIMARY KEY (delivery_id, number)
) STRICT;

CREATE TABLE dead_letters (
    delivery_id BLOB PRIMARY KEY,
    tenant_id   BLOB NOT NULL,
    event_kind  TEXT NOT NULL,
    job_id      BLOB,
    endpoint_id BLOB,
    account     TEXT,
    url         TEXT NOT NULL,
    host        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    first_error TEXT,
    last_error  TEXT,
    died_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, delivery_id);
CREATE INDEX dead_letters_age ON dead_letters (died_at);

CREATE TABLE redrives (
    id              BLOB PRIMARY KEY,
    tenant_id       BLOB NOT NULL,
    -- what it takes: dead letters, or deliveries that have ended in whatever way
    source          TEXT NOT NULL CHECK (source IN ('letters', 'deliveries')),
    filter          TEXT NOT NULL,
    -- that of the filter
    account         TEXT,
    rate_per_second INTEGER,
    state           TEXT NOT NULL CHECK (state = 'running' OR state = 'done' OR state = 'cancelled'),
    matched         INTEGER NOT NULL,
    -- 1: there were more to count
    at_least        INTEGER NOT NULL,
    redriven        INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    cursor_id       BLOB,
    next_at         INTEGER,
    created_at      INTEGER NOT NULL,
    ended_at        INTEGER
) STRICT;
CREATE INDEX redrives_running ON redrives (next_at) WHERE state = 'running';
CREATE INDEX redrives_turn ON redrives (tenant_id, next_at, id) WHERE state = 'running';
CREATE INDEX redrives_tenant ON redrives (tenant_id, id);
CREATE INDEX redrives_age ON redrives (ended_at) WHERE ended_at IS NOT NULL;

-- A node owns lanes while it is alive, and keeps their slots and breaker in memory.
CREATE TABLE nodes (
    id          BLOB PRIMARY KEY,
    alive_until INTEGER NOT NULL
) STRICT;

CREATE TABLE lanes (
    id              BLOB PRIMARY KEY,
    tenant_id       BLOB NOT NULL,
    endpoint_id     BLOB,
    origin          TEXT,
    owner_id        BLOB,
    concurrency     INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    opened          INTEGER NOT NULL,
    -- when a node last came to own it
    used_at         INTEGER NOT NULL,
    -- how often one did
    owners          INTEGER NOT NULL DEFAULT 0,
    -- what its owner found out: a Retry-After, or an open breaker and when it sends a probe
    held_until      INTEGER,
    held_reason     TEXT,
    -- when the bucket of its rate is full again
    rate_at         INTEGER,
    -- what someone set here or for the endpoint, and when; the owner looks every second. The last instant there is means "until resumed"
    set_at          INTEGER NOT NULL DEFAULT 0,
    paused_until    INTEGER,
    -- when someone last put an end to what its owner had found out
    cleared_at      INTEGER,
    -- the last number given to a delivery of an ordered endpoint
    numbered        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX lanes_tenant ON lanes (tenant_id, id);
CREATE INDEX lanes_held ON lanes (tenant_id, id) WHERE held_until IS NOT NULL;
CREATE INDEX lanes_owner ON lanes (owner_id, set_at);
CREATE INDEX lanes_used ON lanes (used_at);
