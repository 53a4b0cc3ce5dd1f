package status

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Schema is what the records are written in: schema/seed_status.avsc without its doc.
const Schema = `{"type": "record", "name": "SeedStatus", "namespace": "sluicegate.status", "fields": [
	{"name": "event_timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
	{"name": "response_message", "type": ["null", "string"], "default": null},
	{"name": "status", "type": "string"},
	{"name": "seed_id", "type": "int"},
	{"name": "sub_scenario_id", "type": "int"},
	{"name": "scenario_id", "type": "int"},
	{"name": "script_id", "type": "int"}
]}`

var columns = []string{
	"event_timestamp", "response_message", "status", "seed_id", "sub_scenario_id", "scenario_id", "script_id",
}

// Row is one record, and one row without its id.
type Row struct {
	EventTimestamp  time.Time `avro:"event_timestamp"`
	ResponseMessage *string   `avro:"response_message"`
	Status          string    `avro:"status"`
	SeedID          int32     `avro:"seed_id"`
	SubScenarioID   int32     `avro:"sub_scenario_id"`
	ScenarioID      int32     `avro:"scenario_id"`
	ScriptID        int32     `avro:"script_id"`
}

// Sink writes over one connection. Rows are decoded while COPY sends them, each into the same Row, and what pgx gets
// to see are pointers that stay the same: so neither rows nor values are allocated one by one.
type Sink struct {
	conn  *pgx.Conn
	table pgx.Identifier

	row    Row
	time   pgtype.Timestamp
	text   [2]pgtype.Text
	ints   [4]pgtype.Int4
	values []any

	next, rows int
	decode     func(i int, row *Row) error
	err        error
}

// Connect opens a writer's connection.
func (j *Job) Connect(ctx context.Context) (*Sink, error) {
	conn, err := pgx.Connect(ctx, j.DB)
	if err != nil {
		return nil, err
	}
	s := &Sink{conn: conn, table: strings.Split(j.Table, ".")}
	s.values = []any{&s.time, &s.text[0], &s.text[1], &s.ints[0], &s.ints[1], &s.ints[2], &s.ints[3]}
	return s, nil
}

// Close ends the connection.
func (s *Sink) Close(ctx context.Context) { _ = s.conn.Close(ctx) }

// Copy writes rows in one transaction, which is committed when it returns nil; decode fills in the i-th of them.
func (s *Sink) Copy(ctx context.Context, rows int, decode func(i int, row *Row) error) error {
	s.next, s.rows, s.decode, s.err = 0, rows, decode, nil
	written, err := s.conn.CopyFrom(ctx, s.table, columns, s)
	if err != nil {
		return fmt.Errorf("COPY: %w", err)
	}
	if written != int64(rows) {
		return fmt.Errorf("COPY wrote %d of %d rows", written, rows)
	}
	return nil
}

// Next decodes the next row, for pgx.
func (s *Sink) Next() bool {
	if s.err != nil || s.next == s.rows {
		return false
	}
	s.err = s.decode(s.next, &s.row)
	s.next++
	return s.err == nil
}

// Values hands the row over, for pgx.
func (s *Sink) Values() ([]any, error) {
	row := &s.row
	s.time = pgtype.Timestamp{Time: row.EventTimestamp, Valid: true}
	s.text[0] = pgtype.Text{}
	if row.ResponseMessage != nil {
		s.text[0] = pgtype.Text{String: *row.ResponseMessage, Valid: true}
	}
	s.text[1] = pgtype.Text{String: row.Status, Valid: true}
	for i, id := range [4]int32{row.SeedID, row.SubScenarioID, row.ScenarioID, row.ScriptID} {
		s.ints[i] = pgtype.Int4{Int32: id, Valid: true}
	}
	return s.values, nil
}

// Err says why Next stopped, for pgx.
func (s *Sink) Err() error { return s.err }

// Batches gathers what arrives in chunks and writes it in batches of at most `most`, or of what has come within
// Linger. It returns when in is closed and written to its end, or at once when reading is over.
func Batches[M any](reading context.Context, in <-chan []M, most int, write func([]M) error) error {
	batch := make([]M, 0, most)
	linger := time.NewTimer(Linger)
	linger.Stop()
	flush := func() error {
		linger.Stop()
		if len(batch) == 0 {
			return nil
		}
		err := write(batch)
		clear(batch)
		batch = batch[:0]
		return err
	}
	for {
		select {
		case <-reading.Done():
			return nil
		case <-linger.C:
			if err := flush(); err != nil {
				return err
			}
		case chunk, open := <-in:
			if !open {
				return flush()
			}
			for len(chunk) > 0 {
				if len(batch) == 0 {
					linger.Reset(Linger)
				}
				n := min(most-len(batch), len(chunk))
				batch, chunk = append(batch, chunk[:n]...), chunk[n:]
				if len(batch) == most {
					if err := flush(); err != nil {
						return err
					}
				}
			}
		}
	}
}
