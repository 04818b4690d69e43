// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"encoding/json"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	// TypePrefix precedes the type of an event of the log in the type of a CloudEvent: in
	// the name space of the project, as the standard wants.
	TypePrefix = "com.github.holdfast-ha."
	// TypeGap is a CloudEvent that stands for events which the log had dropped.
	TypeGap = TypePrefix + "gap"
	// TypeTest is what `holdfast webhook test` sends.
	TypeTest = TypePrefix + "test"

	contentType = "application/cloudevents+json; charset=utf-8"
)

// CloudEvent is an event in the structured JSON mode of CloudEvents 1.0. Severity and
// sequence are extensions; sequence orders events of one fleet as text.
type CloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"` // the same at every repetition: receivers drop what they have seen
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Severity        string    `json:"severity,omitempty"`
	Sequence        string    `json:"sequence,omitempty"`
	Data            any       `json:"data"`
}

// GapData is the data of a TypeGap event: between these positions events were dropped
// before they were delivered; how many of them the hook selects is not known.
type GapData struct {
	Hook    string   `json:"hook"`
	After   Position `json:"after"`   // last that was delivered or passed over
	Through Position `json:"through"` // last that was dropped
	Message string   `json:"message"`
}

func (c Config) cloudEvent(x v1.Event) CloudEvent {
	subject := ""
	switch {
	case x.Host != "":
		subject = "hosts/" + x.Host
	case x.Partition != "":
		subject = "partitions/" + x.Partition
	case x.Worker != "":
		subject = "workers/" + x.Worker
	}
	return CloudEvent{
		SpecVersion: "1.0", ID: x.ID, Source: c.Source, Type: TypePrefix + x.Type, Subject: subject, Time: x.At.UTC(),
		DataContentType: "application/json", Severity: x.Severity, Sequence: sequence(x.Revision), Data: x,
	}
}

func (c Config) gapEvent(name string, after, through Position, now time.Time) CloudEvent {
	d := GapData{Hook: name, After: after, Through: through, Message: "the log had dropped events before they were delivered: read what is so now from the API"}
	return CloudEvent{
		SpecVersion: "1.0", ID: fmt.Sprintf("gap-%s-%d-%d", name, after.Revision, through.Revision), Source: c.Source, Type: TypeGap, Subject: "hooks/" + name,
		Time: now.UTC(), DataContentType: "application/json", Severity: "warning", Sequence: sequence(through.Revision), Data: d,
	}
}

// TestEvent is an event that tells of nothing.
func (c Config) TestEvent(name, id, who string, now time.Time) CloudEvent {
	return CloudEvent{
		SpecVersion: "1.0", ID: id, Source: c.Source, Type: TypeTest, Subject: "hooks/" + name, Time: now.UTC(), DataContentType: "application/json", Severity: "info",
		Data: map[string]string{"hook": name, "by": who, "message": "a test: nothing has happened"},
	}
}

func sequence(rev int64) string { return fmt.Sprintf("%020d", rev) }

// Delivery is one event on its way: the bytes that are signed and sent.
type Delivery struct {
	ID   string
	Body []byte
}

// Encode makes the bytes of an event.
func (e CloudEvent) Encode() (Delivery, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return Delivery{}, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	return Delivery{ID: e.ID, Body: b}, nil
}
