-- Times are epoch milliseconds. No foreign keys between hot tables: each insert that
-- references one parent row would make a multixact. State names are literals.

CREATE TABLE tenants (
    id         UUID PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id         UUID PRIMARY KEY,
    tenant_id  UUID NOT NULL,
    name       TEXT,
    prefix     TEXT NOT NULL,
    hash       BYTEA NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    queues     TEXT,
    accounts   TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, id) WHERE revoked_at IS NULL;
CREATE INDEX api_keys_end ON api_keys (COALESCE(revoked_at, expires_at)) WHERE COALESCE(revoked_at, expires_at) IS NOT NULL;

-- Signing secrets, sealed. owner_id is the endpoint, or the tenant itself for its default secret.
CREATE TABLE secrets (
    id         UUID PRIMARY KEY,
    tenant_id  UUID NOT NULL,
    owner_id   UUID NOT NULL,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX secrets_owner ON secrets (owner_id, created_at);
CREATE INDEX secrets_expiry ON secrets (expires_at) WHERE expires_at IS NOT NULL;

-- A standing endpoint. account is '' where it has none. due_at of its parked deliveries is theirs + 2^52.
CREATE TABLE endpoints (
    id              UUID PRIMARY KEY,
    tenant_id       UUID NOT NULL,
    account         TEXT NOT NULL,
    -- those that it had before, a list: its deliveries keep theirs
    former_accounts TEXT,
    url             TEXT NOT NULL,
    description     TEXT,
    patterns        TEXT NOT NULL,
    -- its headers
    sealed          BYTEA,
    rate_per_second BIGINT,
    max_in_flight   BIGINT,
    timeout_seconds BIGINT NOT NULL,
    ordered         BIGINT NOT NULL,
    policy          TEXT NOT NULL,
    payload         TEXT NOT NULL,
    format          TEXT NOT NULL,
    schemes         TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('enabled', 'paused', 'disabled')),
    state_reason    TEXT,
    state_since     BIGINT NOT NULL,
    verified_at     BIGINT,
    -- since its last success: when the first attempt failed, how many deliveries have failed, what has been told
    failing_since   BIGINT,
    failed          BIGINT NOT NULL,
    told            TEXT NOT NULL CHECK (told IN ('nothing', 'day', 'three-days', 'disabled')),
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    deleted_at      BIGINT,
    -- the next step of letting its parked deliveries go, or of cancelling a deleted one's
    drain_at        BIGINT,
    drain_step      BIGINT NOT NULL
);
CREATE INDEX endpoints_tenant ON endpoints (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_account ON endpoints (tenant_id, account, id) WHERE deleted_at IS NULL;
-- each delivery asks whether its endpoint is one of these; UNIQUE, or SQLite would take the key of all instead
CREATE UNIQUE INDEX endpoints_failing ON endpoints (id) WHERE failing_since IS NOT NULL;
-- for lists: those that are not told, among many that are
CREATE INDEX endpoints_off ON endpoints (tenant_id, id) WHERE state <> 'enabled' AND deleted_at IS NULL;
CREATE INDEX endpoints_drain ON endpoints (drain_at) WHERE drain_at IS NOT NULL;

-- The document of a job: written at submission and at its end, not in between.
CREATE TABLE jobs (
    id                UUID PRIMARY KEY,
    tenant_id         UUID NOT NULL,
    kind              TEXT NOT NULL,
    queue             TEXT NOT NULL,
    reference         TEXT,
    priority          BIGINT NOT NULL,
    worker            TEXT NOT NULL,
    input             TEXT,
    callback          TEXT,
    sealed            BYTEA,
    run_at            BIGINT,
    deadline_at       BIGINT,
    timeout_seconds   BIGINT NOT NULL,
    max_attempts      BIGINT NOT NULL,
    metadata          TEXT NOT NULL,
    retain_seconds    BIGINT NOT NULL,
    traceparent       TEXT,
    estimated_seconds BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    -- 'owed' while a row of job_queue tells the rest
    state             TEXT NOT NULL CHECK (state IN ('owed', 'complete', 'failed', 'cancelled', 'expired')),
    attempt           BIGINT NOT NULL,
    sequence          BIGINT NOT NULL,
    version           BIGINT NOT NULL,
    fence             BIGINT NOT NULL,
    token             BYTEA,
    started_at        BIGINT,
    started_sequence  BIGINT,
    ended_at          BIGINT,
    error             TEXT,
    error_code        TEXT,
    error_retryable   BIGINT,
    result            BYTEA,
    result_type       TEXT,
    result_url        TEXT,
    -- the delivery of the terminal event
    delivery_id       UUID,
    expires_at        BIGINT,
    -- past it the job is gone; expires_at, put off while a delivery or a dead letter needs the job
    remove_at         BIGINT,
    purged_at         BIGINT
);
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
    job_id           UUID PRIMARY KEY,
    tenant_id        UUID NOT NULL,
    queue            TEXT COLLATE "C" NOT NULL,
    level            BIGINT NOT NULL,
    due_at           BIGINT NOT NULL,
    kind             TEXT NOT NULL,
    phase            TEXT NOT NULL CHECK (phase IN ('ready', 'leased', 'retry')),
    fence            BIGINT NOT NULL,
    token            BYTEA,
    attempt          BIGINT NOT NULL,
    attempts_left    BIGINT NOT NULL,
    sequence         BIGINT NOT NULL,
    version          BIGINT NOT NULL,
    wants            BIGINT NOT NULL,
    lease_seconds    BIGINT NOT NULL,
    timeout_ms       BIGINT NOT NULL,
    started_at       BIGINT,
    started_sequence BIGINT,
    -- the attempt before this one, when this claim took over an expired lease
    lost_at          BIGINT,
    lost_sequence    BIGINT,
    progress         BIGINT,
    progress_at      BIGINT,
    -- progress that came too soon after that is told then
    progress_due     BIGINT,
    message          TEXT,
    error            TEXT,
    error_code       TEXT,
    worker_id        TEXT,
    deadline_at      BIGINT,
    cancel_at        BIGINT,
    cancel_reason    TEXT,
    -- the sweep looks at the row then: deadline, time-out, end of the cancel grace or progress that is due
    watch_at         BIGINT
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 200, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX job_queue_due ON job_queue (tenant_id, queue, level, due_at);
CREATE INDEX job_queue_kind ON job_queue (tenant_id, queue, level, kind, due_at);
CREATE INDEX job_queue_watch ON job_queue (watch_at) WHERE watch_at IS NOT NULL;
CREATE INDEX job_queue_lost ON job_queue (due_at) WHERE attempts_left = 0;
-- the leases that hold now: what a queue has under way, for its limit and for people
CREATE INDEX job_queue_leased ON job_queue (tenant_id, queue, due_at) WHERE phase = 'leased';

-- What someone set for a queue; most queues have no row. paused_until is the last instant there is for "until resumed".
CREATE TABLE queues (
    tenant_id     UUID NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    paused_until  BIGINT,
    max_in_flight BIGINT,
    PRIMARY KEY (tenant_id, name)
);

-- What the last jobs told, written by each node every few seconds: of a type the whole seconds from
-- being owed to the end, of a queue the milliseconds of wait and of run. Numbers between blanks, the newest last.
CREATE TABLE learned (
    tenant_id  UUID NOT NULL,
    what       TEXT NOT NULL CHECK (what IN ('type', 'wait', 'run')),
    name       TEXT COLLATE "C" NOT NULL,
    samples    TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, what, name)
);
CREATE INDEX learned_age ON learned (updated_at);

CREATE TABLE idempotency (
    tenant_id   UUID NOT NULL,
    route       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    -- the job, or whatever else the first request made
    job_id      UUID NOT NULL,
    expires_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, route, key)
);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- Added to a transaction's number, it makes a position of the feed. A dump brings it along; `migrate` raises it where the
-- dump was restored, because numbers begin anew there.
CREATE FUNCTION feed_base() RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT CAST(0 AS BIGINT)';

-- What happened. The first job.queued and the job.started of a running or last attempt are
-- told by the job's own columns and stand here only when a receiver asked for them.
CREATE TABLE events (
    id         UUID PRIMARY KEY,
    tenant_id  UUID NOT NULL,
    job_id     UUID,
    sequence   BIGINT,
    kind       TEXT NOT NULL,
    account    TEXT,
    created_at BIGINT NOT NULL,
    data       TEXT NOT NULL,
    -- the transaction that wrote it, by which the feed pages: none below the oldest running one is still to come
    position   BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint + feed_base()),
    -- how many a published one had
    deliveries BIGINT,
    -- set where no job keeps it
    remove_at  BIGINT
);
CREATE INDEX events_feed ON events (tenant_id, position, id)
    WHERE kind <> 'job.queued' AND kind <> 'job.started' AND kind <> 'webhook.test' AND kind <> 'webhook.verify';
CREATE INDEX events_removal ON events (remove_at) WHERE remove_at IS NOT NULL;
CREATE INDEX events_job ON events (job_id, sequence) WHERE job_id IS NOT NULL;

-- The last event that was removed from a tenant's feed: whoever has not read so far has missed some.
CREATE TABLE feed_marks (
    tenant_id UUID PRIMARY KEY,
    position  BIGINT NOT NULL,
    event_id  UUID NOT NULL
);

-- An event that has more endpoints than the transaction that tells it: who is to get this variant of its body, the ids as
-- they were then, 16 bytes each, and how many have their delivery.
CREATE TABLE fan_outs (
    event_id    UUID NOT NULL,
    variant     TEXT NOT NULL,
    tenant_id   UUID NOT NULL,
    -- what the deliveries are listed by; an event that tells of a job's delivery is none of the job's own
    job_id      UUID,
    traceparent TEXT,
    created_at  BIGINT NOT NULL,
    done        BIGINT NOT NULL,
    -- one that cannot be told is put off
    due_at      BIGINT NOT NULL,
    -- last: it may be long, and most questions are not for it
    endpoints   BYTEA NOT NULL,
    PRIMARY KEY (event_id, variant)
)
-- Emptied, it must not be taken for one that is read whole for nothing: the plans of that moment are kept for long.
WITH (vacuum_truncate = off, autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 200);
-- Tenants take turns.
CREATE INDEX fan_outs_tenant ON fan_outs (tenant_id, event_id, variant);
-- A job is kept until all have heard of it.
CREATE INDEX fan_outs_job ON fan_outs (job_id) WHERE job_id IS NOT NULL;

-- The frozen bytes, once per event and variant, shared by all deliveries that send them.
CREATE TABLE bodies (
    event_id UUID NOT NULL,
    variant  TEXT NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (event_id, variant)
);

CREATE TABLE deliveries (
    id             UUID PRIMARY KEY,
    tenant_id      UUID NOT NULL,
    event_id       UUID NOT NULL,
    variant        TEXT NOT NULL,
    event_kind     TEXT NOT NULL,
    job_id         UUID,
    endpoint_id    UUID,
    account        TEXT,
    lane_id        UUID NOT NULL,
    -- what takes turns within the lane: the hash of an ad-hoc URL, the number in an ordered lane
    turn           BIGINT NOT NULL,
    url            TEXT NOT NULL,
    host           TEXT NOT NULL,
    sealed         BYTEA,
    sealed_row     UUID,
    -- the endpoint whose secrets sign; the tenant's default secret where nothing else does
    signer_id      UUID,
    -- NULL: the contract's own
    policy         TEXT,
    failure_url    TEXT,
    traceparent    TEXT,
    expires_at     BIGINT,
    created_at     BIGINT NOT NULL,
    -- 'owed' while a row of delivery_queue tells the rest
    state          TEXT NOT NULL CHECK (state IN ('owed', 'delivered', 'dead', 'cancelled')),
    version        BIGINT NOT NULL,
    fence          BIGINT NOT NULL,
    attempt        BIGINT NOT NULL,
    last_status    BIGINT,
    first_error    TEXT,
    last_error     TEXT,
    ended_at       BIGINT,
    discarded_at   BIGINT,
    remove_at      BIGINT
);
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
    delivery_id UUID PRIMARY KEY,
    tenant_id   UUID NOT NULL,
    lane_id     UUID NOT NULL,
    turn        BIGINT NOT NULL,
    due_at      BIGINT NOT NULL,
    phase       TEXT NOT NULL CHECK (phase IN ('ready', 'leased')),
    fence       BIGINT NOT NULL,
    -- requests begun over all rounds, and those that the policy of this round counts
    attempt     BIGINT NOT NULL,
    used        BIGINT NOT NULL,
    unknowns    BIGINT NOT NULL,
    -- a new round was asked for while a request was under way
    again       BIGINT NOT NULL DEFAULT 0,
    started_at  BIGINT,
    node_id     UUID,
    -- what a lane owes is read rank by rank: 0 and 1 what has no turn, 2 and 3 what has one; first attempts before retries
    rank        BIGINT GENERATED ALWAYS AS (CASE WHEN turn = 0 THEN 0 ELSE 2 END + CASE WHEN attempt = 0 THEN 0 ELSE 1 END) STORED
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 200, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX delivery_queue_due ON delivery_queue (due_at);
-- one index for all that waits in lanes of endpoints without order: each more is a page more for each delivery that waits
CREATE INDEX delivery_queue_lane ON delivery_queue (lane_id, rank, due_at);
-- from one URL of a lane to the next, however much each of them owes; and the next in order
CREATE INDEX delivery_queue_turn ON delivery_queue (lane_id, turn, due_at) WHERE turn <> 0;

CREATE TABLE attempts (
    delivery_id UUID NOT NULL,
    number      BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    duration_ms BIGINT,
    phases      TEXT,
    address     TEXT,
    status      BIGINT,
    error       TEXT,
    headers     TEXT,
    body        BYTEA,
    next_at     BIGINT,
    PRIMARY KEY (delivery_id, number)
);

CREATE TABLE dead_letters (
    delivery_id UUID PRIMARY KEY,
    tenant_id   UUID NOT NULL,
    event_kind  TEXT NOT NULL,
    job_id      UUID,
    endpoint_id UUID,
    account     TEXT,
    url         TEXT NOT NULL,
    host        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    attempts    BIGINT NOT NULL,
    first_error TEXT,
    last_error  TEXT,
    died_at     BIGINT NOT NULL
);
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, delivery_id);
CREATE INDEX dead_letters_age ON dead_letters (died_at);

CREATE TABLE redrives (
    id              UUID PRIMARY KEY,
    tenant_id       UUID NOT NULL,
    -- what it takes: dead letters, or deliveries that have ended in whatever way
    source          TEXT NOT NULL CHECK (source IN ('letters', 'deliveries')),
    filter          TEXT NOT NULL,
    -- that of the filter
    account         TEXT,
    rate_per_second BIGINT,
    state           TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    matched         BIGINT NOT NULL,
    -- 1: there were more to count
    at_least        BIGINT NOT NULL,
    redriven        BIGINT NOT NULL,
    skipped         BIGINT NOT NULL,
    cursor_id       UUID,
    next_at         BIGINT,
    created_at      BIGINT NOT NULL,
    ended_at        BIGINT
);
CREATE INDEX redrives_running ON redrives (next_at) WHERE state = 'running';
CREATE INDEX redrives_turn ON redrives (tenant_id, next_at, id) WHERE state = 'running';
CREATE INDEX redrives_tenant ON redrives (tenant_id, id);
CREATE INDEX redrives_age ON redrives (ended_at) WHERE ended_at IS NOT NULL;

-- A node owns lanes while it is alive, and keeps their slots and breaker in memory.
CREATE TABLE nodes (
    id          UUID PRIMARY KEY,
    alive_until BIGINT NOT NULL
);

CREATE TABLE lanes (
    id              UUID PRIMARY KEY,
    tenant_id       UUID NOT NULL,
    endpoint_id     UUID,
    origin          TEXT,
    owner_id        UUID,
    concurrency     BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    opened          BIGINT NOT NULL,
    -- when a node last came to own it
    used_at         BIGINT NOT NULL,
    -- how often one did
    owners          BIGINT NOT NULL DEFAULT 0,
    -- what its owner found out: a Retry-After, or an open breaker and when it sends a probe
    held_until      BIGINT,
    held_reason     TEXT,
    -- when the bucket of its rate is full again
    rate_at         BIGINT,
    -- what someone set here or for the endpoint, and when; the owner looks every second. The last instant there is means "until resumed"
    set_at          BIGINT NOT NULL DEFAULT 0,
    paused_until    BIGINT,
    -- when someone last put an end to what its owner had found out
    cleared_at      BIGINT,
    -- the last number given to a delivery of an ordered endpoint
    numbered        BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX lanes_tenant ON lanes (tenant_id, id);
CREATE INDEX lanes_held ON lanes (tenant_id, id) WHERE held_until IS NOT NULL;
CREATE INDEX lanes_owner ON lanes (owner_id, set_at);
CREATE INDEX lanes_used ON lanes (used_at);
