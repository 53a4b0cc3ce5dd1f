-- What a text means must not depend on where the server stands.
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL lc_monetary = 'C';
-- Arrays are planned for as if they had ten rows, once and for all: while a table is small a plan may read all of it, and
-- then goes on to while it grows. An index is never much worse.
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
-- A scan that has to be counts as dear beyond all measure, which is no reason to compile it.
SET LOCAL jit = off
