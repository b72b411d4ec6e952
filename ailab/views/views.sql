-- The tables that a catalogue has, and the views that people and programs may rely on.
--
-- Times are TIMESTAMP in UTC. `at`, `by` and `group` are words of SQL: write them in double quotes.
-- Every column of a view has its comment in the block behind it; `wide`, `event_all` and `point_all` are made by build.py: the
-- columns of the first are data, the others go over tables and what came after them.

-- part: base  (one row per run, project, dataset version, token: a file, of which each reader has a copy, or memory)
CREATE TABLE base.run_table (
    uid UUID, run_id VARCHAR, name VARCHAR, project_id VARCHAR, project VARCHAR, status VARCHAR, started_at TIMESTAMP,
    ended_at TIMESTAMP, last_at TIMESTAMP, "user" VARCHAR, host VARCHAR, seed HUGEINT, "group" VARCHAR, parent_run_id VARCHAR,
    dataset_id VARCHAR, environment_id VARCHAR, code_id VARCHAR, git_hash VARCHAR, command VARCHAR, wandb_url VARCHAR,
    note VARCHAR, description VARCHAR, error VARCHAR, trashed BOOLEAN, own_trashed BOOLEAN, protected BOOLEAN, dropped BIGINT,
    has_artifacts BOOLEAN, goals VARCHAR, tags VARCHAR, notes VARCHAR, artifacts VARCHAR, changes VARCHAR, datasets VARCHAR,
    detail VARCHAR
);
CREATE TABLE base.project_table (project_id VARCHAR, name VARCHAR, description VARCHAR, created_at TIMESTAMP, trashed BOOLEAN);
CREATE TABLE base.dataset_table (
    dataset_id VARCHAR, dataset VARCHAR, name VARCHAR, version BIGINT, sha256 VARCHAR, size BIGINT, format VARCHAR, "rows" BIGINT,
    schema JSON, file VARCHAR, description VARCHAR, tags JSON, metadata JSON, project_id VARCHAR, parent_id VARCHAR,
    created_at TIMESTAMP, "by" VARCHAR, "event" VARCHAR, own_trashed BOOLEAN
);
CREATE TABLE base.token_table (
    token VARCHAR, sha256 VARCHAR, role VARCHAR, name VARCHAR, project_id VARCHAR, created_at TIMESTAMP, "by" VARCHAR,
    revoked_at TIMESTAMP
);
CREATE TABLE base.accepted_table (segment VARCHAR, "by" VARCHAR);
CREATE TABLE base.subject_change_table (
    about VARCHAR, name VARCHAR, version VARCHAR, "event" VARCHAR, "at" TIMESTAMP, "by" VARCHAR, via VARCHAR, kind VARCHAR,
    field VARCHAR, old JSON, "new" JSON
);
CREATE TABLE base.column_table (kind VARCHAR, key VARCHAR, column_name VARCHAR);
CREATE TABLE base.key_table (kind VARCHAR, key VARCHAR, type VARCHAR, uses BIGINT);

-- part: more  (what a snapshot has besides: a file that is only read, or memory)
CREATE TABLE more.register_table (about VARCHAR, name VARCHAR, state VARCHAR);
CREATE TABLE more.state_table (uid UUID, run_id VARCHAR, "at" BIGINT, bytes BIGINT);
CREATE TABLE more.span_table (segment VARCHAR, "end" BIGINT, lines BIGINT, seq BIGINT, crc BIGINT, sealed BOOLEAN);
CREATE TABLE more.summary_table (
    run_id VARCHAR, key VARCHAR, "first" DOUBLE, "last" DOUBLE, "min" DOUBLE, "max" DOUBLE, mean DOUBLE, count BIGINT, last_step BIGINT
);
CREATE TABLE more.environment_table (environment_id VARCHAR, python_version VARCHAR, packages JSON, device JSON, host VARCHAR);
CREATE TABLE more.code_table (
    code_id VARCHAR, git_hash VARCHAR, branch VARCHAR, remote VARCHAR, dirty BOOLEAN, git_diff VARCHAR, script VARCHAR
);

-- part: tail  (what came after the snapshot: in memory)
CREATE TABLE event_table (
    segment VARCHAR, seq BIGINT, "at" TIMESTAMP, clock BIGINT, kind VARCHAR, run_id VARCHAR, "by" VARCHAR, via VARCHAR, data JSON
);
CREATE TABLE point_table (
    run_id VARCHAR, key VARCHAR, step BIGINT, "time" TIMESTAMP, value DOUBLE, exact VARCHAR, clock BIGINT, segment VARCHAR, seq BIGINT
);
CREATE TABLE summary_table AS FROM more.summary_table LIMIT 0;
CREATE TABLE environment_table AS FROM more.environment_table LIMIT 0;
CREATE TABLE code_table AS FROM more.code_table LIMIT 0;
CREATE TABLE touched_table (run_id VARCHAR);
CREATE TABLE redacted_table (segment VARCHAR, seq BIGINT);
CREATE TABLE purged_table (run_id VARCHAR);
CREATE TABLE unstarted_table (run_id VARCHAR);

-- part: views
-- run_now: one row per run whose start was seen, trashed ones too.
CREATE OR REPLACE VIEW run_now AS
SELECT run_id, name, project_id, project, status, started_at, ended_at, last_at, "user", host, seed, "group", parent_run_id, dataset_id,
       environment_id, code_id, git_hash, command, wandb_url, note, description, error, trashed, own_trashed, protected, dropped,
       has_artifacts,
       map_from_entries(list_transform(
           list_filter(map_entries(from_json(detail::JSON -> '$.final_metrics', '"MAP(VARCHAR,JSON)"')),
                       lambda e: TRY_CAST(e.value ->> '$' AS DOUBLE) IS NOT NULL OR e.value IN ('true', 'false')),
           lambda e: {k: e.key, v: CASE e.value WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE TRY_CAST(e.value ->> '$' AS DOUBLE) END}
       )) AS metrics,
       from_json(tags, '[{"key":"VARCHAR","value":"VARCHAR","at":"TIMESTAMP","by":"VARCHAR","segment":"VARCHAR"}]') AS tags,
       from_json(notes, '[{"event":"VARCHAR","at":"TIMESTAMP","by":"VARCHAR","via":"VARCHAR","note":"VARCHAR"}]') AS notes,
       from_json(artifacts, '[{"path":"VARCHAR","logged":"VARCHAR","kind":"VARCHAR","name":"VARCHAR","size":"BIGINT","sha256":"VARCHAR",
                               "version":"BIGINT","at":"TIMESTAMP","trashed":"BOOLEAN","reference":"BOOLEAN","location":"VARCHAR"}]') AS artifacts,
       from_json(changes, '[{"event":"VARCHAR","at":"TIMESTAMP","by":"VARCHAR","via":"VARCHAR","kind":"VARCHAR","field":"VARCHAR",
                             "old":"JSON","new":"JSON"}]') AS changes,
       from_json(datasets, '[{"dataset":"VARCHAR","sha256":"VARCHAR","role":"VARCHAR","name":"VARCHAR","at":"TIMESTAMP"}]') AS datasets,
       detail::JSON -> '$.params' AS params, detail::JSON -> '$.final_metrics' AS final_metrics
FROM base.run_table;
CREATE OR REPLACE VIEW summary_now AS
SELECT * FROM more.summary_table ANTI JOIN touched_table USING (run_id) UNION ALL SELECT * FROM summary_table;
CREATE OR REPLACE VIEW environment_now AS SELECT * FROM more.environment_table UNION ALL SELECT * FROM environment_table;
CREATE OR REPLACE VIEW code_now AS SELECT * FROM more.code_table UNION ALL SELECT * FROM code_table;

CREATE OR REPLACE VIEW runs AS
SELECT run_id, name, project_id, project, status, started_at, ended_at,
       greatest(0, epoch(coalesce(ended_at, last_at) - started_at)) AS duration_s,
       "user", host, seed, "group", parent_run_id, dataset_id, git_hash, note, params, metrics, trashed
FROM run_now;
COMMENT ON VIEW runs IS 'one row per run, trashed ones too; final values of metrics';
COMMENT ON COLUMN runs.run_id IS 'the run''s id';
COMMENT ON COLUMN runs.name IS 'what people call it';
COMMENT ON COLUMN runs.project_id IS 'id of its project, made from the project''s first name';
COMMENT ON COLUMN runs.project IS 'label of its project as it is now';
COMMENT ON COLUMN runs.status IS 'pending, running, completed, failed, killed, or crashed (no end, and its writer is gone)';
COMMENT ON COLUMN runs.started_at IS 'first start, UTC';
COMMENT ON COLUMN runs.ended_at IS 'end, UTC; of a crashed run its last event; NULL while it runs';
COMMENT ON COLUMN runs.duration_s IS 'seconds from start to end, or to the last event while it runs';
COMMENT ON COLUMN runs."user" IS 'who started it';
COMMENT ON COLUMN runs.host IS 'where it was started';
COMMENT ON COLUMN runs.seed IS 'the random seed, if one was given';
COMMENT ON COLUMN runs."group" IS 'a name that several runs share';
COMMENT ON COLUMN runs.parent_run_id IS 'the run that it belongs to';
COMMENT ON COLUMN runs.dataset_id IS 'the dataset it was trained on, as given';
COMMENT ON COLUMN runs.git_hash IS 'HEAD of its repository when it started';
COMMENT ON COLUMN runs.note IS 'the note as it reads now';
COMMENT ON COLUMN runs.params IS 'parameters as a JSON object';
COMMENT ON COLUMN runs.metrics IS 'final value by metric: given at the end, over run.summary, over the last logged';
COMMENT ON COLUMN runs.trashed IS 'whether it, or its project, is in the trash';

CREATE OR REPLACE VIEW manifests AS
SELECT r.run_id, strftime(r.started_at, '%Y-%m-%dT%H:%M:%S.%fZ') AS "timestamp", r.git_hash, c.git_diff, r.command, e.python_version,
       array_to_string(CAST(e.packages AS VARCHAR[]), chr(10)) AS pip_freeze, CAST(e.device AS VARCHAR) AS device_info, r.dataset_id,
       CAST(r.params AS VARCHAR) AS params_json, CAST(r.final_metrics AS VARCHAR) AS final_metrics_json,
       CAST(to_json([x FOR x, i IN r.logged IF list_position(r.logged, x) = i]) AS VARCHAR) AS artifacts_json, r.wandb_url, r.note
FROM (SELECT *, [a.logged FOR a IN artifacts IF NOT a.trashed] AS logged FROM run_now) r
LEFT JOIN code_now c ON c.code_id = r.code_id
LEFT JOIN environment_now e ON e.environment_id = r.environment_id
WHERE NOT r.trashed;
COMMENT ON VIEW manifests IS 'one row per run from its start on, without trashed ones: the fourteen columns of a run''s manifest';
COMMENT ON COLUMN manifests.run_id IS 'the run''s id';
COMMENT ON COLUMN manifests."timestamp" IS 'start as RFC 3339 text, UTC';
COMMENT ON COLUMN manifests.git_hash IS 'HEAD of its repository when it started';
COMMENT ON COLUMN manifests.git_diff IS 'what differed from HEAD then, secrets redacted';
COMMENT ON COLUMN manifests.command IS 'how the process was launched, secrets redacted';
COMMENT ON COLUMN manifests.python_version IS 'version of Python';
COMMENT ON COLUMN manifests.pip_freeze IS 'installed distributions, one name==version per line';
COMMENT ON COLUMN manifests.device_info IS 'processor, memory and accelerators as JSON text';
COMMENT ON COLUMN manifests.dataset_id IS 'the dataset, as given';
COMMENT ON COLUMN manifests.params_json IS 'parameters as JSON text';
COMMENT ON COLUMN manifests.final_metrics_json IS 'final metrics as JSON text';
COMMENT ON COLUMN manifests.artifacts_json IS 'paths of artifacts as logged, a JSON list';
COMMENT ON COLUMN manifests.wandb_url IS 'address of the W&B run beside it';
COMMENT ON COLUMN manifests.note IS 'the note as it reads now';

CREATE OR REPLACE VIEW params AS
SELECT run_id, e.key AS key, coalesce(e.value ->> '$', CAST(e.value AS VARCHAR)) AS value,
       CASE WHEN json_type(e.value) IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE') THEN TRY_CAST(e.value ->> '$' AS DOUBLE) END AS number
FROM (SELECT run_id, unnest(map_entries(from_json(params, '"MAP(VARCHAR,JSON)"'))) AS e FROM run_now);
COMMENT ON VIEW params IS 'one row per run and parameter';
COMMENT ON COLUMN params.run_id IS 'the run''s id';
COMMENT ON COLUMN params.key IS 'name of the parameter; nested ones are joined with /';
COMMENT ON COLUMN params.value IS 'its value as text; lists and objects as JSON';
COMMENT ON COLUMN params.number IS 'its value as a number, where it is one';

-- point_now: every point with its step, and its place in the order of logging, which seq alone is only within a segment.
CREATE OR REPLACE VIEW point_now AS
SELECT run_id, key,
       coalesce(step, row_number() OVER (PARTITION BY run_id, key ORDER BY clock, segment, seq) - 1) AS step,
       "time", value, exact, clock, segment, seq
FROM point_all;

CREATE OR REPLACE VIEW metrics AS SELECT run_id, key, step, "time", value, exact, seq FROM point_now;
COMMENT ON VIEW metrics IS 'one row per logged point';
COMMENT ON COLUMN metrics.run_id IS 'the run''s id';
COMMENT ON COLUMN metrics.key IS 'name of the metric';
COMMENT ON COLUMN metrics.step IS 'the step given; without one, how many points of this metric came before';
COMMENT ON COLUMN metrics."time" IS 'the caller''s own time, else when it was logged; UTC';
COMMENT ON COLUMN metrics.value IS 'the value as a double; NaN and infinities are kept';
COMMENT ON COLUMN metrics.exact IS 'the value''s digits, only where a double does not hold it exactly';
COMMENT ON COLUMN metrics.seq IS 'place in its segment';

CREATE OR REPLACE VIEW metric_summary AS
SELECT run_id, key, "first", "last", "min", "max", mean, count, last_step FROM summary_now;
COMMENT ON VIEW metric_summary IS 'one row per run and metric, over its logged points';
COMMENT ON COLUMN metric_summary.run_id IS 'the run''s id';
COMMENT ON COLUMN metric_summary.key IS 'name of the metric';
COMMENT ON COLUMN metric_summary."first" IS 'value logged first';
COMMENT ON COLUMN metric_summary."last" IS 'value logged last';
COMMENT ON COLUMN metric_summary."min" IS 'smallest value, NaN left out';
COMMENT ON COLUMN metric_summary."max" IS 'greatest value, NaN left out';
COMMENT ON COLUMN metric_summary.mean IS 'mean value, NaN left out';
COMMENT ON COLUMN metric_summary.count IS 'number of points';
COMMENT ON COLUMN metric_summary.last_step IS 'greatest step given';

CREATE OR REPLACE VIEW tags AS
SELECT run_id, t."key" AS key, t."value" AS value, t."at" AS "at", coalesce(a."by", t."by") AS "by"
FROM (SELECT run_id, unnest(tags) AS t FROM run_now WHERE tags IS NOT NULL)
LEFT JOIN base.accepted_table a ON a.segment = t.segment;
COMMENT ON VIEW tags IS 'one row per run and tag that is set';
COMMENT ON COLUMN tags.run_id IS 'the run''s id';
COMMENT ON COLUMN tags.key IS 'the tag';
COMMENT ON COLUMN tags.value IS 'its value; NULL for a bare tag';
COMMENT ON COLUMN tags."at" IS 'when it was set, UTC';
COMMENT ON COLUMN tags."by" IS 'who set it, where that is known';

CREATE OR REPLACE VIEW notes AS
SELECT run_id, n."event" AS event, n."at" AS "at", coalesce(a."by", n."by") AS "by", n.via AS via, n.note AS note
FROM (SELECT run_id, unnest(notes) AS n FROM run_now WHERE notes IS NOT NULL)
LEFT JOIN base.accepted_table a ON a.segment = regexp_replace(n."event", ':[0-9]+$', '');
COMMENT ON VIEW notes IS 'every version of every note';
COMMENT ON COLUMN notes.run_id IS 'the run''s id';
COMMENT ON COLUMN notes.event IS 'id of the event, SEGMENT:SEQ';
COMMENT ON COLUMN notes."at" IS 'when it was written, UTC';
COMMENT ON COLUMN notes."by" IS 'who wrote it, where that is known';
COMMENT ON COLUMN notes.via IS 'sdk, cli, http, agent, import or server';
COMMENT ON COLUMN notes.note IS 'the note';

CREATE OR REPLACE VIEW artifacts AS
SELECT run_id, a.path AS path, a.kind AS kind, a."name" AS name, a."size" AS size, a.sha256 AS sha256, a."version" AS version,
       a."at" AS "at", a.trashed AS trashed, a.reference AS reference, a.location AS location
FROM (SELECT run_id, unnest(artifacts) AS a FROM run_now WHERE artifacts IS NOT NULL);
COMMENT ON VIEW artifacts IS 'one row per version of a file of a run';
COMMENT ON COLUMN artifacts.run_id IS 'the run''s id';
COMMENT ON COLUMN artifacts.path IS 'its place in the run';
COMMENT ON COLUMN artifacts.kind IS 'model, checkpoint, plot, evaluation, metrics, predictions, data, log, other …';
COMMENT ON COLUMN artifacts.name IS 'last part of its path';
COMMENT ON COLUMN artifacts.size IS 'bytes';
COMMENT ON COLUMN artifacts.sha256 IS 'SHA-256 of its bytes';
COMMENT ON COLUMN artifacts.version IS '1 for the first file at this path, then 2 …';
COMMENT ON COLUMN artifacts."at" IS 'when it was logged, UTC';
COMMENT ON COLUMN artifacts.trashed IS 'whether it is in the trash';
COMMENT ON COLUMN artifacts.reference IS 'whether its bytes were never kept here';
COMMENT ON COLUMN artifacts.location IS 'where the bytes of a reference lay when it was logged';

CREATE OR REPLACE VIEW projects AS SELECT project_id, name, description, created_at, trashed FROM base.project_table;
COMMENT ON VIEW projects IS 'one row per project';
COMMENT ON COLUMN projects.project_id IS 'made from its first name';
COMMENT ON COLUMN projects.name IS 'its label as it is now';
COMMENT ON COLUMN projects.description IS 'what it is about';
COMMENT ON COLUMN projects.created_at IS 'when it was first named, UTC';
COMMENT ON COLUMN projects.trashed IS 'whether it is in the trash';

CREATE OR REPLACE VIEW datasets AS
SELECT d.dataset_id, d.dataset, d.name, d.version, d.sha256, d.size, d.format, d."rows" AS "rows", d.schema AS schema, d.description,
       d.tags, d.metadata, d.project_id, p.name AS project, d.parent_id, d.file, d.created_at,
       coalesce(a."by", d."by") AS "by", d.own_trashed OR coalesce(p.trashed, false) AS trashed
FROM base.dataset_table d
LEFT JOIN base.project_table p ON p.project_id = d.project_id
LEFT JOIN base.accepted_table a ON a.segment = regexp_replace(d."event", ':[0-9]+$', '');
COMMENT ON VIEW datasets IS 'one row per version of a dataset, trashed ones too';
COMMENT ON COLUMN datasets.dataset_id IS 'DATASET@sha256:HEX, which always means this content';
COMMENT ON COLUMN datasets.dataset IS 'id of the dataset, made from its first name';
COMMENT ON COLUMN datasets.name IS 'label of the dataset as it is now';
COMMENT ON COLUMN datasets.version IS '1 for the first content under this name, then 2 …';
COMMENT ON COLUMN datasets.sha256 IS 'SHA-256 of its bytes';
COMMENT ON COLUMN datasets.size IS 'bytes';
COMMENT ON COLUMN datasets.format IS 'csv, json, ndjson or parquet';
COMMENT ON COLUMN datasets."rows" IS 'number of rows';
COMMENT ON COLUMN datasets.schema IS 'its columns as JSON: name, type, nullable, nulls, distinct, min, max, examples';
COMMENT ON COLUMN datasets.description IS 'what it is';
COMMENT ON COLUMN datasets.tags IS 'its tags as a JSON object';
COMMENT ON COLUMN datasets.metadata IS 'what else was said of it, a JSON object';
COMMENT ON COLUMN datasets.project_id IS 'id of the project that it belongs to, if any';
COMMENT ON COLUMN datasets.project IS 'label of that project';
COMMENT ON COLUMN datasets.parent_id IS 'the version before it';
COMMENT ON COLUMN datasets.file IS 'name of the file as it came';
COMMENT ON COLUMN datasets.created_at IS 'when it was registered, UTC';
COMMENT ON COLUMN datasets."by" IS 'who registered it, where that is known';
COMMENT ON COLUMN datasets.trashed IS 'whether it, or its project, is in the trash';

CREATE OR REPLACE VIEW dataset_uses AS
SELECT run_id, coalesce(nullif(u.dataset, '') || '@', '') || 'sha256:' || u.sha256 AS dataset_id, u.dataset AS dataset, u.sha256 AS sha256, u.role AS role,
       u."name" AS name, u."at" AS "at"
FROM (SELECT run_id, unnest(datasets) AS u FROM run_now WHERE datasets IS NOT NULL);
COMMENT ON VIEW dataset_uses IS 'one row per run, content that it read, and role';
COMMENT ON COLUMN dataset_uses.run_id IS 'the run''s id';
COMMENT ON COLUMN dataset_uses.dataset_id IS 'the version, as in datasets';
COMMENT ON COLUMN dataset_uses.dataset IS 'id of the dataset, where one was meant';
COMMENT ON COLUMN dataset_uses.sha256 IS 'SHA-256 of its bytes';
COMMENT ON COLUMN dataset_uses.role IS 'training, validation, test …';
COMMENT ON COLUMN dataset_uses.name IS 'the text given, such as iris@v2';
COMMENT ON COLUMN dataset_uses."at" IS 'when, UTC';

CREATE OR REPLACE VIEW system_now AS
SELECT run_id, key, "time", value, clock, segment, seq FROM (
    SELECT run_id, e.key AS key, "at" AS "time", clock, segment, seq,
           CASE WHEN json_type(e.value) = 'BOOLEAN' THEN CAST(e.value = 'true' AS DOUBLE)
                WHEN json_type(e.value) <> 'VARCHAR' OR e.value ->> '$' IN ('NaN', 'Infinity', '-Infinity')
                     OR regexp_full_match(e.value ->> '$', '[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
                THEN TRY_CAST(e.value ->> '$' AS DOUBLE) END AS value
    FROM (
        SELECT run_id, "at", clock, segment, seq, unnest(map_entries(from_json(data -> '$.values', '"MAP(VARCHAR,JSON)"'))) AS e
        FROM event_all
        WHERE kind = 'system_metrics.logged' AND run_id IS NOT NULL AND json_type(data -> '$.values') = 'OBJECT'
          AND run_id NOT IN (SELECT run_id FROM unstarted_table)
    )
) WHERE value IS NOT NULL;

CREATE OR REPLACE VIEW system_metrics AS SELECT run_id, key, "time", value FROM system_now;
COMMENT ON VIEW system_metrics IS 'one row per figure of the machine that a run was logged with';
COMMENT ON COLUMN system_metrics.run_id IS 'the run''s id';
COMMENT ON COLUMN system_metrics.key IS 'process/cpu_percent, process/memory_bytes, gpu/0/power_watts …';
COMMENT ON COLUMN system_metrics."time" IS 'when, UTC';
COMMENT ON COLUMN system_metrics.value IS 'the figure, in the unit that its name says';

CREATE OR REPLACE VIEW console_now AS
SELECT run_id, "at" AS "time", data ->> '$.stream' AS stream, from_json(data -> '$.lines', '["VARCHAR"]') AS lines,
       coalesce(TRY_CAST(data ->> '$.dropped' AS BIGINT), 0) AS dropped, clock, segment, seq
FROM event_all
WHERE kind = 'console_lines.logged' AND run_id IS NOT NULL AND json_type(data -> '$.lines') = 'ARRAY'
  AND json_type(data -> '$.stream') = 'VARCHAR'
  AND len(list_filter(from_json(data -> '$.lines', '["JSON"]'), lambda x: json_type(x) IS DISTINCT FROM 'VARCHAR')) = 0
  AND coalesce(json_type(data -> '$.dropped'), 'NULL') IN ('NULL', 'UBIGINT', 'BIGINT', 'HUGEINT', 'UHUGEINT')
  AND run_id NOT IN (SELECT run_id FROM unstarted_table);

CREATE OR REPLACE VIEW console AS
SELECT run_id, "time", stream, unnest(lines) AS line, segment || ':' || seq AS event, generate_subscripts(lines, 1) AS n
FROM console_now;
COMMENT ON VIEW console IS 'one row per line that a run printed';
COMMENT ON COLUMN console.run_id IS 'the run''s id';
COMMENT ON COLUMN console."time" IS 'when it was kept, UTC';
COMMENT ON COLUMN console.stream IS 'stdout or stderr';
COMMENT ON COLUMN console.line IS 'the line';
COMMENT ON COLUMN console.event IS 'id of the event, SEGMENT:SEQ';
COMMENT ON COLUMN console.n IS 'place of the line in its event, from 1';

CREATE OR REPLACE VIEW environments AS SELECT environment_id, python_version, packages, device, host FROM environment_now;
COMMENT ON VIEW environments IS 'one row per environment that runs ran in';
COMMENT ON COLUMN environments.environment_id IS 'SHA-256 of its content';
COMMENT ON COLUMN environments.python_version IS 'version of Python';
COMMENT ON COLUMN environments.packages IS 'installed distributions, a JSON list of name==version';
COMMENT ON COLUMN environments.device IS 'processor, memory and accelerators as JSON';
COMMENT ON COLUMN environments.host IS 'name of the machine';

CREATE OR REPLACE VIEW changes AS
SELECT c."event" AS event, c."at" AS "at", coalesce(a."by", c."by") AS "by", c.via AS via, run_id, c.kind AS kind, c.field AS field,
       coalesce(c.old ->> '$', CAST(c.old AS VARCHAR)) AS old, coalesce(c."new" ->> '$', CAST(c."new" AS VARCHAR)) AS "new",
       project_id, dataset_id
FROM (
    SELECT run_id, NULL::VARCHAR AS project_id, NULL::VARCHAR AS dataset_id, unnest(changes) AS c FROM run_now WHERE changes IS NOT NULL
    UNION ALL
    SELECT NULL, CASE about WHEN 'project' THEN name END, CASE about WHEN 'dataset' THEN name || coalesce('@sha256:' || version, '') END,
           {'event': "event", 'at': "at", 'by': "by", 'via': via, 'kind': kind, 'field': field, 'old': old, 'new': "new"}
    FROM base.subject_change_table
) LEFT JOIN base.accepted_table a ON a.segment = regexp_replace(c."event", ':[0-9]+$', '');
COMMENT ON VIEW changes IS 'one row per field that was changed after it was first set';
COMMENT ON COLUMN changes.event IS 'id of the event, SEGMENT:SEQ';
COMMENT ON COLUMN changes."at" IS 'when, UTC';
COMMENT ON COLUMN changes."by" IS 'who, where that is known';
COMMENT ON COLUMN changes.via IS 'sdk, cli, http, agent, import or server';
COMMENT ON COLUMN changes.run_id IS 'the run; NULL where a project or dataset was changed';
COMMENT ON COLUMN changes.kind IS 'kind of the event';
COMMENT ON COLUMN changes.field IS 'what was changed: note, name, tags.KEY, params.KEY, trashed …';
COMMENT ON COLUMN changes.old IS 'the value before; NULL where there was none';
COMMENT ON COLUMN changes."new" IS 'the value after; NULL where it was taken away';
COMMENT ON COLUMN changes.project_id IS 'the project that was changed';
COMMENT ON COLUMN changes.dataset_id IS 'the dataset that was changed, or its version';

CREATE OR REPLACE VIEW events AS SELECT segment || ':' || seq AS event, segment, seq, "at", clock, kind, run_id, "by", via, data FROM event_all;
COMMENT ON VIEW events IS 'everything that happened, one row per event';
COMMENT ON COLUMN events.event IS 'id of the event, SEGMENT:SEQ';
COMMENT ON COLUMN events.segment IS 'the file it stands in';
COMMENT ON COLUMN events.seq IS 'its place in the file, from 0';
COMMENT ON COLUMN events."at" IS 'the writer''s clock, UTC';
COMMENT ON COLUMN events.clock IS 'Lamport clock; edits are ordered by (clock, segment, seq)';
COMMENT ON COLUMN events.kind IS 'what happened';
COMMENT ON COLUMN events.run_id IS 'the run it is about, if any';
COMMENT ON COLUMN events."by" IS 'person or token, where it differs from the segment''s';
COMMENT ON COLUMN events.via IS 'door it came through, where it differs from the segment''s';
COMMENT ON COLUMN events.data IS 'the kind''s own fields as JSON';
