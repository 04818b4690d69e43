// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"encoding/json"
	"net/url"
	"time"
)

// IncidentFormat and IncidentVersion name the file of an exported incident. A reader
// refuses another format and a newer version, and passes over fields it does not know.
const (
	IncidentFormat  = "holdfast-incident"
	IncidentVersion = 1
)

// IncidentExport is one incident, whole, without secrets: what is shown of it, handed to a
// customer and replayed (docs/ha.md). All times are UTC.
type IncidentExport struct {
	Format    string    `json:"format"`  // IncidentFormat
	Version   int       `json:"version"` // IncidentVersion
	Exported  time.Time `json:"exported"`
	Software  string    `json:"software"` // version of the worker that exported it
	Partition string    `json:"partition,omitempty"`
	Instances []string  `json:"instances,omitempty"` // that the host had when the incident began

	Incident  Incident         `json:"incident"`
	Checks    []IncidentCheck  `json:"checks,omitempty"`    // of what neighbours see, oldest first
	Rounds    []GuardRound     `json:"rounds,omitempty"`    // evaluations of the guards, oldest first
	Packets   []IncidentPacket `json:"packets,omitempty"`   // exchanges with power devices, oldest first
	Operators []Audit          `json:"operators,omitempty"` // what people changed about the host meanwhile, oldest first
	Events    []Event          `json:"events,omitempty"`    // of the log, oldest first
	Missing   []string         `json:"missing,omitempty"`   // what is not kept any more, in words

	Steps []json.RawMessage `json:"steps,omitempty"` // decisions with what they were made of, for `holdfast replay`
}

// IncidentCheck is one activity check and its votes.
type IncidentCheck struct {
	ID      string    `json:"id"`
	Asked   time.Time `json:"asked"`
	Done    time.Time `json:"done,omitzero"`
	Verdict string    `json:"verdict"` // active, idle, unknown
	Reason  string    `json:"reason"`
	Votes   []Vote    `json:"votes,omitempty"`
}

// Vote is what one neighbour saw.
type Vote struct {
	Reader  string `json:"reader"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
}

// GuardRound is one evaluation of all guards, on the snapshot that they were shown.
type GuardRound struct {
	At       time.Time       `json:"at"`
	Purpose  string          `json:"purpose"` // recover, fence, confirm
	Allowed  bool            `json:"allowed"`
	Answers  []GuardAnswer   `json:"answers"`
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
}

// IncidentPacket is one exchange with a power device: what was asked, and what came of it.
type IncidentPacket struct {
	At       time.Time `json:"at"`
	Txn      string    `json:"txn"`
	Seq      int       `json:"seq"`
	Device   string    `json:"device"`
	Do       string    `json:"do"`             // identity, read, send
	Verb     string    `json:"verb,omitempty"` // of send: off, on, soft, reset, cycle
	Answered time.Time `json:"answered,omitzero"`
	Answer   string    `json:"answer,omitempty"` // empty: none is on record
}

// ExplainIncident says why an incident is as it is, or ended as it did.
func (c *Client) ExplainIncident(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, c, incidentPath(id, "/explain"), nil)
}

// ExportIncident is all that is kept of one incident, without secrets.
func (c *Client) ExportIncident(ctx context.Context, id string) (IncidentExport, error) {
	return get[IncidentExport](ctx, c, incidentPath(id, "/export"), nil)
}

func incidentPath(id, more string) string { return "/v1/incidents/" + url.PathEscape(id) + more }
