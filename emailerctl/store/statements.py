"""Every SQL statement, once, in the subset that SQLite and PostgreSQL share.

Named parameters, no clock of the database, integer milliseconds.  Exactly two statements assign
a state: TRANSITION for recipients, SUMMARISE for messages; both are guarded.
"""

from emailerctl.models.lifecycle import FINAL
from emailerctl.store.schema import NOTABLE_SQL

_FINAL_SQL = ", ".join(f"'{state}'" for state in sorted(FINAL))

# The guard is the point: a step from a state that has meanwhile changed touches no row.
TRANSITION = """
    UPDATE recipients
       SET state = :to_state, reason = :reason, attempt = coalesce(:attempt, attempt),
           provider = coalesce(:provider, provider), reply = coalesce(:reply, reply),
           changed_at = :now
     WHERE message_id = :message_id AND n = :n AND state = :from_state
"""

SUMMARISE = """
    UPDATE messages
       SET state = :state, changed_at = :now
     WHERE id = :message_id AND state <> :state
"""

# acceptance

ADD_KEY = """
    INSERT INTO keys (hash, message_id) VALUES (:key_hash, :message_id)
        ON CONFLICT (hash) DO NOTHING
"""

ADD_MESSAGE = """
    INSERT INTO messages (
        id, service, token_id, state, created_at, changed_at, send_at, expires_at, priority,
        on_unknown, provider, is_test, envelope_sender, header_from, subject, tags, metadata,
        template, list_unsubscribe, needs_smtputf8, size_bytes, content_hash, key_hash,
        fingerprint
    ) VALUES (
        :message_id, :service, :token_id, :state, :created_at, :created_at, :send_at,
        :expires_at, :priority, :on_unknown, :provider, :is_test, :envelope_sender,
        :header_from, :subject, :tags, :metadata, :template, :list_unsubscribe, :needs_smtputf8,
        :size_bytes, :content_hash, :key_hash, :fingerprint
    ) ON CONFLICT (id) DO NOTHING
"""

ADD_CONTENT = "INSERT INTO contents (message_id, raw) VALUES (:message_id, :raw)"

ADD_RECIPIENT = """
    INSERT INTO recipients (message_id, n, kind, address, state, reason, changed_at)
    VALUES (:message_id, :n, :kind, :address, :state, :reason, :now)
"""

ADD_WORK = """
    INSERT INTO work (message_id, next_hop, priority, service, due_at, waiting_for, age_from)
    VALUES (:message_id, :next_hop, :priority, :service, :due_at, :waiting_for, :age_from)
"""

ADD_EVENT = """
    INSERT INTO events (
        type, at, message_id, n, from_state, to_state, attempt, provider, reply, data
    ) VALUES (
        :type, :at, :message_id, :n, :from_state, :to_state, :attempt, :provider, :reply, :data
    )
"""

# Of the only writer, which counts on from LAST_SEQ.
ADD_NUMBERED_EVENT = """
    INSERT INTO events (
        seq, type, at, message_id, n, from_state, to_state, attempt, provider, reply, data
    ) VALUES (
        :seq, :type, :at, :message_id, :n, :from_state, :to_state, :attempt, :provider, :reply,
        :data
    )
"""

KEY_OWNER = "SELECT message_id FROM keys WHERE hash = :key_hash"

RATE_COUNT = """
    SELECT count(*) FROM recipient_rates
     WHERE token_id = :token_id AND address = :address AND at > :since
"""

ADD_RATE = """
    INSERT INTO recipient_rates (token_id, address, at, message_id)
    VALUES (:token_id, :address, :now, :message_id) ON CONFLICT DO NOTHING
"""

# due, claim, mark, settle

# A lane is a next hop and a priority.  The services with work in it are found one after the
# other in the index, however much work each of them has.
FIRST_SERVICE = """
    SELECT service FROM work
     WHERE lease_token IS NULL AND is_alone = 0
       AND next_hop = :next_hop AND priority = :priority
     ORDER BY service LIMIT 1
"""

NEXT_SERVICE = """
    SELECT service FROM work
     WHERE lease_token IS NULL AND is_alone = 0
       AND next_hop = :next_hop AND priority = :priority AND service > :service
     ORDER BY service LIMIT 1
"""

DUE = """
    SELECT message_id FROM work
     WHERE lease_token IS NULL AND is_alone = 0
       AND next_hop = :next_hop AND priority = :priority AND service = :service
       AND due_at <= :now
     ORDER BY due_at LIMIT :limit
"""

# For a next hop that is probed: a copy too many is what these would bear.
DUE_WITH_POLICY = """
    SELECT w.message_id, m.on_unknown
      FROM (SELECT message_id, due_at FROM work
             WHERE lease_token IS NULL AND is_alone = 0
               AND next_hop = :next_hop AND priority = :priority AND service = :service
               AND due_at <= :now
             ORDER BY due_at LIMIT :limit) w
      JOIN messages m ON m.id = w.message_id
     ORDER BY w.due_at
"""

NEXT_DUE = """
    SELECT due_at FROM work
     WHERE lease_token IS NULL AND is_alone = 0
       AND next_hop = :next_hop AND priority = :priority AND service = :service
       AND due_at > :now
     ORDER BY due_at LIMIT 1
"""

SUSPECTS = """
    SELECT message_id FROM work
     WHERE lease_token IS NULL AND is_alone = 1 AND due_at <= :now
     ORDER BY due_at LIMIT 1
"""

NEXT_SUSPECT = """
    SELECT due_at FROM work
     WHERE lease_token IS NULL AND is_alone = 1 AND due_at > :now
     ORDER BY due_at LIMIT 1
"""

# An attempt that was marked has its number even if its row will only be written later: a number
# is never given twice, since evidence is keyed by it.
LEASE = """
    UPDATE work
       SET lease_token = :lease_token, lease_owner = :consumer_id, lease_until = NULL,
           marked_at = NULL, open_until_at = NULL,
           attempt = 1 + (
               SELECT coalesce(max(n), 0)
                 FROM (SELECT n FROM attempts WHERE message_id = work.message_id
                        UNION ALL
                       SELECT attempt FROM recipients WHERE message_id = work.message_id))
     WHERE message_id IN (SELECT value FROM json_each(:ids))
       AND lease_token IS NULL AND due_at <= :now
 RETURNING next_hop, chain_index, schedule_step, age_from, due_at, is_alone, attempt, message_id
"""

CLAIM_FACTS = """
    SELECT m.service, m.created_at, m.expires_at, m.priority, m.on_unknown, m.provider,
           m.is_test, m.envelope_sender, m.header_from, m.needs_smtputf8, m.tags, m.metadata,
           m.template, m.content_hash, m.size_bytes,
           CASE WHEN m.size_bytes <= :small THEN c.raw END, m.id, m.list_unsubscribe, t.name
      FROM messages m LEFT JOIN contents c ON c.message_id = m.id
                      LEFT JOIN tokens t ON t.id = m.token_id
     WHERE m.id IN (SELECT value FROM json_each(:ids))
"""

CLAIM_RECIPIENTS = """
    SELECT message_id, n, address, state FROM recipients
     WHERE message_id IN (SELECT value FROM json_each(:ids)) ORDER BY message_id, n
"""

RECIPIENT_STATES = """
    SELECT n, address, state FROM recipients WHERE message_id = :message_id ORDER BY n
"""

RECIPIENT = """
    SELECT r.state, r.address, r.attempt, m.service, m.expires_at, m.on_unknown
      FROM recipients r JOIN messages m ON m.id = r.message_id
     WHERE r.message_id = :message_id AND r.n = :n
"""

MARK_WORK = """
    UPDATE work
       SET lease_until = :lease_until, marked_at = :now, open_until_at = :open_until_at
     WHERE message_id = :message_id AND lease_token = :lease_token
"""

EXPIRY = "SELECT expires_at FROM messages WHERE id = :message_id"

HELD_LEASE = """
    SELECT open_until_at FROM work
     WHERE message_id = :message_id AND lease_token = :lease_token
"""

GIVE_BACK = """
    UPDATE work
       SET lease_token = NULL, lease_owner = NULL, lease_until = NULL, marked_at = NULL,
           open_until_at = NULL, due_at = :due_at, waiting_for = :waiting_for,
           next_hop = :next_hop, chain_index = :chain_index, schedule_step = :schedule_step,
           is_alone = 0, lost = 0
     WHERE message_id = :message_id AND lease_token = :lease_token
"""

# Only what was not marked can be given back without an attempt.
RETURN = """
    UPDATE work
       SET lease_token = NULL, lease_owner = NULL, lease_until = NULL, due_at = :due_at,
           waiting_for = :waiting_for, next_hop = :next_hop, chain_index = :chain_index
     WHERE message_id = :message_id AND lease_token = :lease_token AND marked_at IS NULL
"""

# A mark that was refused: as it was, and due.
FREE = """
    UPDATE work
       SET lease_token = NULL, lease_owner = NULL, lease_until = NULL, marked_at = NULL,
           open_until_at = NULL, due_at = :due_at, waiting_for = :waiting_for
     WHERE message_id = :message_id AND lease_token = :lease_token
"""

END_LEASED_WORK = """
    DELETE FROM work WHERE message_id = :message_id AND lease_token = :lease_token
"""

END_WORK = "DELETE FROM work WHERE message_id = :message_id"

REQUEUE = """
    INSERT INTO work (
        message_id, next_hop, priority, service, due_at, waiting_for, chain_index,
        schedule_step, age_from
    ) VALUES (
        :message_id, '', :priority, (SELECT service FROM messages WHERE id = :message_id),
        :due_at, :waiting_for, 0, 0, :age_from
    ) ON CONFLICT (message_id) DO UPDATE
       SET due_at = CASE WHEN excluded.due_at < work.due_at
                         THEN excluded.due_at ELSE work.due_at END,
           waiting_for = CASE WHEN excluded.due_at < work.due_at
                              THEN excluded.waiting_for ELSE work.waiting_for END,
           next_hop = '', chain_index = 0, schedule_step = 0, age_from = excluded.age_from
"""

WORKING_RECIPIENTS = """
    SELECT count(*) FROM recipients
     WHERE message_id = :message_id AND state IN ('queued', 'sending')
"""

# What an attempt has once decided, no later silence takes back.
ADD_ATTEMPT = """
    INSERT INTO attempts (
        message_id, n, provider, phase, outcome, code, enhanced_status, reply,
        provider_message_id, started_at, ended_at, open_until_at, hash, recipients, dialogue,
        route
    ) VALUES (
        :message_id, :n, :provider, :phase, :outcome, :code, :enhanced_status, :reply,
        :provider_message_id, :started_at, :ended_at, :open_until_at, :hash, :recipients,
        :dialogue, :route
    ) ON CONFLICT (message_id, n) DO UPDATE
       SET provider = excluded.provider, phase = excluded.phase, outcome = excluded.outcome,
           code = excluded.code, enhanced_status = excluded.enhanced_status,
           reply = excluded.reply, provider_message_id = excluded.provider_message_id,
           ended_at = excluded.ended_at,
           dialogue = excluded.dialogue
     WHERE attempts.outcome = 'unknown'
"""

ADD_TIMER = """
    INSERT INTO timers (message_id, n, what, at) VALUES (:message_id, :n, :what, :at)
        ON CONFLICT (message_id, n, what) DO UPDATE SET at = excluded.at
"""

END_TIMERS = "DELETE FROM timers WHERE message_id = :message_id AND n = :n"

END_TIMERS_OF = "DELETE FROM timers WHERE what = :what"

DUE_TIMERS = """
    SELECT message_id, n, what FROM timers
     WHERE at <= :now AND (:may_expire = 1 OR what <> 'expire') ORDER BY at LIMIT :limit
"""

END_TIMER = """
    DELETE FROM timers WHERE message_id = :message_id AND n = :n AND what = :what
"""

RAW = "SELECT raw FROM contents WHERE message_id = :message_id"

HAS_RAW = "SELECT 1 FROM contents WHERE message_id = :message_id"

# reports

ADD_REPORT_CALL = """
    INSERT INTO report_calls (provider, once, received_at, raw, fault)
    VALUES (:provider, :once, :now, :raw, :fault)
        ON CONFLICT (provider, once) DO NOTHING
 RETURNING id
"""

END_REPORT_CALL = "DELETE FROM report_calls WHERE id = :call_id"

_REPORT_COLUMNS = """
    event_id, kind, at, recipient, message_id, n, attempt, provider_message_id, cause, event,
    suppresses, reply, data
"""

ADD_REPORT = f"""
    INSERT INTO reports (call_id, provider, received_at, next_at, {_REPORT_COLUMNS})
    VALUES (:call_id, :provider, :now, :next_at, :event_id, :kind, :at, :recipient, :message_id,
            :n, :attempt, :provider_message_id, :cause, :event, :suppresses, :reply, :data)
        ON CONFLICT (provider, event_id) DO NOTHING
 RETURNING id
"""

MATCH_REPORT = """
    UPDATE reports
       SET message_id = :message_id, n = :n, attempt = :attempt, matched_at = :now,
           next_at = NULL
     WHERE id = :id
"""

DUE_REPORTS = f"""
    SELECT id, provider, received_at, {_REPORT_COLUMNS}
      FROM reports WHERE next_at <= :now ORDER BY next_at LIMIT :limit
"""

HAS_DUE_REPORTS = "SELECT 1 FROM reports WHERE next_at <= :now LIMIT 1"

POSTPONE_REPORT = "UPDATE reports SET next_at = :next_at WHERE id = :id"

ATTEMPT_OF_PROVIDER = """
    SELECT message_id, n FROM attempts
     WHERE provider_message_id = :provider_message_id AND provider_message_id <> ''
       AND provider = :provider
     ORDER BY message_id DESC, n DESC LIMIT 1
"""

# What may have gone out, and so may be reported on.
REPORTABLE_ATTEMPTS = """
    SELECT n, provider, recipients FROM attempts
     WHERE message_id = :message_id AND outcome IN ('accepted', 'unknown') ORDER BY n
"""

# Those whose newest attempt past its mark it is.
RECIPIENTS_OF_ATTEMPT = """
    SELECT n, state FROM recipients
     WHERE message_id = :message_id AND attempt = :attempt AND attempt > 0 ORDER BY n
"""

REPORT_FACTS = """
    SELECT r.state, r.address, r.attempt, r.provider, m.service, m.is_test
      FROM recipients r JOIN messages m ON m.id = r.message_id
     WHERE r.message_id = :message_id AND r.n = :n
"""

# consumers

REGISTER = """
    INSERT INTO consumers (
        id, host, pid, boot_id, version, started_at, heartbeat_at, lease_until, in_flight
    ) VALUES (
        :id, :host, :pid, :boot_id, :version, :started_at, :heartbeat_at, :lease_until,
        :in_flight
    )
"""

RENEW = """
    UPDATE consumers
       SET heartbeat_at = :now, lease_until = :lease_until, in_flight = :in_flight
     WHERE id = :id AND ended_at IS NULL
"""

END_CONSUMER = "UPDATE consumers SET ended_at = :now WHERE id = :id AND ended_at IS NULL"

FORGET_CONSUMERS = "DELETE FROM consumers WHERE ended_at < :before"

IS_ENTITLED = "SELECT 1 FROM consumers WHERE id = :consumer_id AND ended_at IS NULL"

CONSUMERS = """
    SELECT id, host, pid, boot_id, version, started_at, heartbeat_at, lease_until, in_flight
      FROM consumers WHERE ended_at IS NULL ORDER BY started_at
"""

# A dead consumer loses every lease, a lapsed one what it has not marked; whoever it is, a
# marked lease ends with its own time.
LEASES_OVER = """
    SELECT w.message_id, w.marked_at, w.open_until_at, w.attempt, w.is_alone, w.lost,
           w.lease_token, m.content_hash, m.service, m.expires_at, m.on_unknown
      FROM work w JOIN messages m ON m.id = w.message_id
     WHERE w.lease_token IS NOT NULL AND w.lease_owner = :consumer_id
       AND (:is_dead = 1 OR w.lease_until <= :boot
            OR (:is_lapsed = 1 AND w.lease_until IS NULL))
"""

LOSE_LEASE = """
    UPDATE work
       SET lease_token = NULL, lease_owner = NULL, lease_until = NULL, marked_at = NULL,
           open_until_at = NULL, is_alone = 1, lost = :lost
     WHERE message_id = :message_id AND lease_token = :lease_token
"""

ADOPT_ORPHANS = """
    UPDATE work SET next_hop = '', chain_index = 0
     WHERE lease_token IS NULL AND next_hop NOT IN (SELECT value FROM json_each(:hops))
"""

ORPHAN = """
    SELECT 1 FROM work
     WHERE lease_token IS NULL AND next_hop NOT IN (SELECT value FROM json_each(:hops)) LIMIT 1
"""

WAKE_PARKED = """
    UPDATE work SET due_at = :now, waiting_for = 'ready'
     WHERE message_id IN (
               SELECT message_id FROM work
                WHERE lease_token IS NULL AND waiting_for = 'next_hop' AND due_at > :now
                ORDER BY due_at LIMIT :limit)
"""

SHORTEN_WAITS = """
    UPDATE work SET due_at = :now
     WHERE lease_token IS NULL
       AND ((waiting_for = 'ready' AND due_at > :now)
            OR (waiting_for IN ('retry', 'next_hop') AND due_at > :latest))
"""

# operators

ORDER_FACTS = """
    SELECT service, expires_at, priority, header_from, send_at
      FROM messages WHERE id = :message_id
"""

# Not what somebody is handing over.
RESCHEDULE = """
    UPDATE work SET due_at = :due_at, waiting_for = :waiting_for, age_from = :due_at
     WHERE message_id = :message_id AND lease_token IS NULL
"""

SET_SEND_AT = "UPDATE messages SET send_at = :due_at WHERE id = :message_id"

HAS_ATTEMPT = """
    SELECT 1 FROM attempts WHERE message_id = :message_id
     UNION ALL
    SELECT 1 FROM recipients WHERE message_id = :message_id AND attempt > 0
"""

SET_RAW = "UPDATE contents SET raw = :raw WHERE message_id = :message_id"

SET_HASH = """
    UPDATE messages SET content_hash = :content_hash, size_bytes = :size_bytes
     WHERE id = :message_id
"""

# By the primary key, a piece at a time: it is asked after a restore, when nobody else works.
OPEN_MESSAGES = """
    SELECT DISTINCT message_id FROM recipients
     WHERE message_id > :after AND state IN ('queued', 'sending', 'held')
     ORDER BY message_id LIMIT :limit
"""

SET_EXPIRY = "UPDATE messages SET expires_at = :expires_at WHERE id = :message_id"

# Since when `max_age` counts: an operator's order starts it afresh.
AGE_FROM = """
    SELECT coalesce(
               (SELECT max(e.at) FROM events e
                 WHERE e.message_id = m.id
                   AND e.type IN ('operator.retry', 'operator.release', 'operator.resolve')),
               m.send_at, m.created_at)
      FROM messages m WHERE m.id = :message_id
"""

OPEN_UNTIL = """
    SELECT open_until_at FROM attempts WHERE message_id = :message_id AND n = :attempt
"""

# notes: pause, epoch, clocks, indexes

NOTE = "SELECT value FROM meta WHERE key = :key"

LEAVE_NOTE = """
    INSERT INTO meta (key, value) VALUES (:key, :value)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""

KEEP_NOTE = """
    INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO NOTHING
"""

END_NOTE = "DELETE FROM meta WHERE key = :key"

# reading

_MESSAGE_COLUMNS = """
    m.id, m.service, m.token_id, m.state, m.created_at, m.expires_at, m.priority, m.on_unknown,
    m.provider, m.is_test, m.envelope_sender, m.header_from, m.subject, m.tags, m.metadata,
    m.size_bytes, m.content_hash, m.template,
    EXISTS (SELECT 1 FROM contents c WHERE c.message_id = m.id), m.fingerprint,
    w.due_at, w.waiting_for, (SELECT t.name FROM tokens t WHERE t.id = m.token_id)
"""

MESSAGE = f"""
    SELECT {_MESSAGE_COLUMNS}
      FROM messages m LEFT JOIN work w ON w.message_id = m.id
     WHERE m.id = :message_id
"""

RECIPIENTS = """
    SELECT n, address, kind, state, reason, provider, reply, attempt, changed_at
      FROM recipients WHERE message_id = :message_id ORDER BY n
"""

ATTEMPTS = """
    SELECT n, provider, phase, outcome, code, enhanced_status, reply, started_at, ended_at,
           hash, recipients, open_until_at, provider_message_id, dialogue, route
      FROM attempts WHERE message_id = :message_id ORDER BY n
"""

IDS_BETWEEN = "SELECT id FROM messages WHERE id BETWEEN :low AND :high ORDER BY id LIMIT :limit"

IDS_OF_SERVICE = """
    SELECT id FROM messages
     WHERE id BETWEEN :low AND :high AND service = :service ORDER BY id LIMIT :limit
"""

# Where a listing begins: each gives candidates, newest first, below a cursor.
NEWEST = """
    SELECT id FROM messages WHERE id < :below AND id >= :from_id ORDER BY id DESC LIMIT :limit
"""

NOTABLE_STATE = f"""
    SELECT id FROM messages
     WHERE {NOTABLE_SQL} AND state = :state AND id < :below AND id >= :from_id
     ORDER BY id DESC LIMIT :limit
"""

IN_WORK = """
    SELECT message_id FROM work
     WHERE message_id < :below AND message_id >= :from_id ORDER BY message_id DESC LIMIT :limit
"""

WITH_TERM = """
    SELECT message_id FROM terms
     WHERE term = :term AND message_id < :below AND message_id >= :from_id
     ORDER BY message_id DESC LIMIT :limit
"""

WITH_TERM_PREFIX = """
    SELECT DISTINCT message_id FROM terms
     WHERE term >= :term AND term < :term_end AND message_id < :below AND message_id >= :from_id
     ORDER BY message_id DESC LIMIT :limit
"""

ACCEPTED_AFTER = """
    SELECT seq, message_id FROM events
     WHERE seq > :after AND type = 'message.accepted' ORDER BY seq LIMIT :limit
"""

FIRST_NOT_INDEXED = """
    SELECT min(message_id) FROM events WHERE seq > :after AND type = 'message.accepted'
"""

HAS_ACCEPTED = """
    SELECT 1 FROM events WHERE message_id = :message_id AND type = 'message.accepted'
"""

ADD_TERM = """
    INSERT INTO terms (term, message_id) VALUES (:term, :message_id) ON CONFLICT DO NOTHING
"""

_EVENT_COLUMNS = """
    e.seq, e.type, e.at, e.message_id, r.address, e.from_state, e.to_state, e.attempt,
    e.provider, m.service, e.reply, e.data
"""

_EVENT_TABLES = """
    events e LEFT JOIN messages m ON m.id = e.message_id
             LEFT JOIN recipients r ON r.message_id = e.message_id AND r.n = e.n
"""

EVENTS_AFTER = f"""
    SELECT {_EVENT_COLUMNS}, m.tags FROM {_EVENT_TABLES}
     WHERE e.seq > :after ORDER BY e.seq LIMIT :limit
"""

EVENTS_OF = f"""
    SELECT {_EVENT_COLUMNS}, m.tags FROM {_EVENT_TABLES}
     WHERE e.message_id = :message_id AND e.seq > :after ORDER BY e.seq LIMIT :limit
"""

LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM events"

FIRST_SEQ_SINCE = (
    "SELECT seq FROM events WHERE seq > :after AND at >= :since ORDER BY seq LIMIT 1"
)

UNKNOWN = """
    SELECT r.message_id, r.n, r.address, m.service, m.subject, r.provider, r.attempt,
           r.changed_at, a.open_until_at, m.on_unknown, t.at, m.expires_at
      FROM recipients r
      JOIN messages m ON m.id = r.message_id
      LEFT JOIN attempts a ON a.message_id = r.message_id AND a.n = r.attempt
      LEFT JOIN timers t ON t.message_id = r.message_id AND t.n = r.n AND t.what = 'resend'
     WHERE r.state = 'unknown' AND (:service IS NULL OR m.service = :service)
     ORDER BY r.message_id, r.n LIMIT :limit
"""

UNKNOWN_COUNT = """
    SELECT count(*), min(r.changed_at) FROM recipients r WHERE r.state = 'unknown'
"""

# The gauge that pages somebody: not those whose sender no longer wants them (delivery.md §4.6).
UNKNOWN_OPEN = """
    SELECT count(*), min(r.changed_at)
      FROM recipients r JOIN messages m ON m.id = r.message_id
     WHERE r.state = 'unknown' AND (m.expires_at IS NULL OR m.expires_at > :now)
"""

HELD_COUNT = f"SELECT count(*) FROM messages WHERE {NOTABLE_SQL} AND state = 'held'"

QUEUE_COUNTS = """
    SELECT CASE WHEN lease_token IS NOT NULL AND marked_at IS NOT NULL THEN 'sending'
                WHEN due_at <= :now AND waiting_for <> 'next_hop' THEN 'ready'
                ELSE waiting_for END AS what,
           count(*), min(due_at)
      FROM work GROUP BY what
"""

# tokens

ADD_TOKEN = """
    INSERT INTO tokens (id, name, service, secret_hash, scopes, limits, is_test, created_at,
                        expires_at)
    VALUES (:id, :name, :service, :secret_hash, :scopes, :limits, :is_test, :created_at,
            :expires_at)
"""

LIVE_TOKEN_NAMED = """
    SELECT id FROM tokens
     WHERE name = :name AND (revoked_at IS NULL OR revoked_at > :now)
       AND (expires_at IS NULL OR expires_at > :now)
"""

TOKENS = """
    SELECT id, name, service, secret_hash, scopes, is_test, created_at, expires_at, revoked_at,
           last_used_at, limits
      FROM tokens ORDER BY created_at, id
"""

TOKEN_ENDS = "SELECT expires_at, revoked_at FROM tokens WHERE id = :token_id"

END_TOKEN = """
    UPDATE tokens SET revoked_at = :at
     WHERE id = :token_id AND (revoked_at IS NULL OR revoked_at > :at)
"""

EXPIRE_TOKEN = """
    UPDATE tokens SET expires_at = :at
     WHERE id = :token_id AND (expires_at IS NULL OR expires_at > :at)
"""

TOUCH_TOKEN = """
    UPDATE tokens SET last_used_at = :at
     WHERE id = :token_id AND (last_used_at IS NULL OR last_used_at < :at)
"""

# suppressions, next hops, alerts

HAS_SUPPRESSIONS = "SELECT EXISTS (SELECT 1 FROM suppressed)"

IS_SUPPRESSED = """
    SELECT 1 FROM suppressed
     WHERE address = :address AND service IN ('', :service)
       AND (blocks = 'all' OR :is_list = 1)
       AND (expires_at IS NULL OR expires_at > :now)
"""

ANY_SUPPRESSED = """
    SELECT 1 FROM suppressed
     WHERE address IN (SELECT value FROM json_each(:addresses)) LIMIT 1
"""

SUPPRESS = """
    INSERT INTO suppressed (
        address, service, blocks, reason, detail, created_at, expires_at, actor, message_id,
        provider
    ) VALUES (
        :address, :service, :blocks, :reason, :detail, :created_at, :expires_at, :actor,
        :message_id, :provider
    ) ON CONFLICT (address, service, blocks) DO UPDATE
       SET reason = excluded.reason, detail = excluded.detail, created_at = excluded.created_at,
           expires_at = excluded.expires_at, actor = excluded.actor,
           message_id = excluded.message_id, provider = excluded.provider
     WHERE :replaces = 1
        OR (suppressed.expires_at IS NOT NULL
            AND (excluded.expires_at IS NULL OR excluded.expires_at > suppressed.expires_at))
"""

UNSUPPRESS = """
    DELETE FROM suppressed
     WHERE address = :address AND service = :service
       AND (:blocks IS NULL OR blocks = :blocks)
"""

SUPPRESSIONS = """
    SELECT address, service, blocks, reason, detail, created_at, expires_at, actor, message_id,
           provider
      FROM suppressed
     WHERE (address, service, blocks) >= (:address, :service, :blocks)
       AND address < :address_end AND (:only IS NULL OR service IN ('', :only))
     ORDER BY address, service, blocks LIMIT :limit
"""

NEXT_HOPS = """
    SELECT name, state, reason, changed_at, actor, settings_hash FROM next_hops ORDER BY name
"""

SET_NEXT_HOP = """
    INSERT INTO next_hops (name, state, reason, changed_at, actor, settings_hash)
    VALUES (:name, :state, :reason, :changed_at, :actor, :settings_hash)
        ON CONFLICT (name) DO UPDATE
       SET state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at,
           actor = excluded.actor, settings_hash = excluded.settings_hash
"""

BREAKERS = """
    SELECT name, state, version, reason, since_at, until_at, openings, failures, owner
      FROM breakers ORDER BY name
"""

# Compare and set: a change that was decided on another version touches no row.
SET_BREAKER = """
    INSERT INTO breakers (
        name, state, version, reason, since_at, until_at, openings, failures, owner
    ) VALUES (
        :name, :state, :version, :reason, :since_at, :until_at, :openings, :failures, :owner
    ) ON CONFLICT (name) DO UPDATE
       SET state = excluded.state, version = excluded.version, reason = excluded.reason,
           since_at = excluded.since_at, until_at = excluded.until_at,
           openings = excluded.openings, failures = excluded.failures, owner = excluded.owner
     WHERE breakers.version = :version - 1
"""

CLOSE_BREAKER = """
    UPDATE breakers
       SET state = 'closed', version = version + 1, reason = '', since_at = :now, until_at = 0,
           openings = 0, failures = 0, owner = 0
     WHERE name = :name AND state <> 'closed'
"""

PACE = """
    SELECT free_us, minute, used, used_before FROM paces
     WHERE next_hop = :next_hop AND domain = :domain
"""

SET_PACE = """
    INSERT INTO paces (next_hop, domain, free_us, minute, used, used_before)
    VALUES (:next_hop, :domain, :free_us, :minute, :used, :used_before)
        ON CONFLICT (next_hop, domain) DO UPDATE
       SET free_us = excluded.free_us, minute = excluded.minute, used = excluded.used,
           used_before = excluded.used_before
"""

USAGE = "SELECT next_hop, minute, used, used_before FROM paces WHERE domain = ''"

DOMAIN_KEYS = """
    SELECT domain, selector, algorithm, state, public, created_at, changed_at, actor
      FROM domain_keys ORDER BY domain, created_at, selector
"""

ADD_DOMAIN_KEY = """
    INSERT INTO domain_keys (
        domain, selector, algorithm, state, public, created_at, changed_at, actor
    ) VALUES (
        :domain, :selector, :algorithm, :state, :public, :now, :now, :actor
    ) ON CONFLICT (domain, selector) DO NOTHING
"""

# Of a key, not of a message: the life cycle has no part in it.
SET_KEY_STATE = """
    UPDATE domain_keys SET state = :state, changed_at = :now, actor = :actor
     WHERE domain = :domain AND selector = :selector
"""

END_DOMAIN_KEY = "DELETE FROM domain_keys WHERE domain = :domain AND selector = :selector"

RAISE_ALERT = """
    INSERT INTO alerts (name, detail, since_at, notified_at)
    VALUES (:name, :detail, :since_at, :notified_at) ON CONFLICT (name) DO NOTHING
"""

NOTE_ALERT_TOLD = "UPDATE alerts SET notified_at = :at WHERE name = :name"

CLEAR_ALERT = "DELETE FROM alerts WHERE name = :name"

ALERTS = "SELECT name, detail, since_at, notified_at FROM alerts ORDER BY since_at, name"

# retention, in small batches

OLD_CONTENT = f"""
    SELECT c.message_id FROM contents c JOIN messages m ON m.id = c.message_id
     WHERE c.message_id < :before_id AND m.state IN ({_FINAL_SQL}) AND m.changed_at < :before
     LIMIT :limit
"""

END_CONTENT = "DELETE FROM contents WHERE message_id = :message_id"

OLD_MESSAGES = f"""
    SELECT id FROM messages
     WHERE id < :before_id AND state IN ({_FINAL_SQL}) AND changed_at < :before
       AND (key_hash IS NULL OR changed_at < :keyed_before) LIMIT :limit
"""

END_MESSAGE = (
    "DELETE FROM keys WHERE hash = (SELECT key_hash FROM messages WHERE id = :message_id)",
    "DELETE FROM contents WHERE message_id = :message_id",
    "DELETE FROM attempts WHERE message_id = :message_id",
    "DELETE FROM recipients WHERE message_id = :message_id",
    "DELETE FROM timers WHERE message_id = :message_id",
    "DELETE FROM terms WHERE message_id = :message_id",
    "DELETE FROM messages WHERE id = :message_id",
)

OLD_EVENTS = """
    SELECT max(seq), count(*) FROM (
        SELECT seq FROM events
         WHERE at < :before AND seq < (SELECT max(seq) FROM events) ORDER BY seq LIMIT :limit)
"""

END_EVENTS = "DELETE FROM events WHERE seq <= :seq"

OLD_PACES = "DELETE FROM paces WHERE domain <> '' AND free_us < :before_us"

OLD_RATES = """
    DELETE FROM recipient_rates
     WHERE at <= (SELECT max(at) FROM (SELECT at FROM recipient_rates
                                        WHERE at < :before ORDER BY at LIMIT :limit))
"""

# Rows came in the order of their ids.
OLD_REPORTS = """
    DELETE FROM reports
     WHERE id <= (SELECT max(id) FROM (SELECT id, received_at FROM reports
                                        ORDER BY id LIMIT :limit) WHERE received_at < :before)
"""

OLD_REPORT_CALLS = """
    DELETE FROM report_calls
     WHERE id <= (SELECT max(id) FROM (SELECT id, received_at FROM report_calls
                                        ORDER BY id LIMIT :limit) WHERE received_at < :before)
"""
