// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/http"
	"time"
)

// TestDepths are the steps of a power test, shallowest first (power.md §9.4): a host is
// fit for HA while some level is good to identity, and its privilege was not refused.
var TestDepths = []string{"reach", "log in", "status", "identity", "privilege"}

// ProfileRecord is the value of profiles/<scope> in etcd.
type ProfileRecord struct {
	V      int               `json:"v"`
	Fields map[string]string `json:"fields"`
	By     string            `json:"by"`
	At     time.Time         `json:"at"`
	Reason string            `json:"reason,omitempty"`
}

// ProfileField is one field as it is effective, and who said so.
type ProfileField struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // a scope, "declaration" of the host, or "driver"
}

// PowerProfile is how power devices are reached, as it is effective at a scope: what a
// host's own declaration leaves out comes from here, device by device (docs/power.md).
type PowerProfile struct {
	Scope    string         `json:"scope"` // global, zone/…, pod/…, cluster/…, host/…
	Fields   []ProfileField `json:"fields"`
	Hosts    int            `json:"hosts"`             // below the scope
	Changed  []string       `json:"changed,omitempty"` // hosts whose devices a change reaches, answer to PATCH
	By       string         `json:"by,omitempty"`      // of the last change at this very scope
	At       time.Time      `json:"at,omitzero"`
	Reason   string         `json:"reason,omitempty"`
	Revision int64          `json:"revision,omitempty"` // of what this very scope says: the ETag; 0: nothing
}

// ProfileChange asks for fields to be set and taken back at a scope, all or none.
type ProfileChange struct {
	Set    map[string]string `json:"set,omitempty"`
	Unset  []string          `json:"unset,omitempty"`
	Reason string            `json:"reason,omitempty"`
}

// PowerExplanation answers which device would be used for a host, at which level, and why.
type PowerExplanation struct {
	Host     string       `json:"host"`
	State    string       `json:"state"`
	Since    time.Time    `json:"since,omitzero"`
	Cause    string       `json:"cause,omitempty"` // of the last change: external, ours, lost contact
	Why      string       `json:"why,omitempty"`
	Least    string       `json:"least"` // proof that is asked for (ha.proof.min)
	Levels   []PowerLevel `json:"levels"`
	Says     []string     `json:"says"` // what a fence would do, step by step, and what is wrong
	Settings []Setting    `json:"settings,omitempty"`
}

// PowerLevel is one rung of a host's ladder.
type PowerLevel struct {
	Level    int           `json:"level"`
	Mode     string        `json:"mode"` // all, any, human
	State    string        `json:"state"`
	Proves   string        `json:"proves,omitempty"`   // strongest OFF it can prove
	Least    string        `json:"least,omitempty"`    // weaker than this is no proof
	Deadline string        `json:"deadline,omitempty"` // of this level
	Tested   bool          `json:"tested"`
	Why      string        `json:"why,omitempty"` // why it is not, or would not be used
	Devices  []PowerDevice `json:"devices"`
}

// PowerDevice is one device with all that is effective for it.
type PowerDevice struct {
	DeviceStatus
	Address  string         `json:"address,omitempty"`
	Identity Identity       `json:"identity,omitzero"` // pinned
	Fails    int            `json:"fails,omitempty"`   // failed readings in a row
	Next     time.Time      `json:"next,omitzero"`     // next ordinary reading
	Fields   []ProfileField `json:"fields,omitempty"`
}

// ExplainPower says which device of a host would be used, at which level, and why.
func (c *Client) ExplainPower(ctx context.Context, host string) (PowerExplanation, error) {
	return get[PowerExplanation](ctx, c, hostPath(host, "/power"), nil)
}

// PowerProfile is what is effective at a scope; "" is global.
func (c *Client) PowerProfile(ctx context.Context, scope string) (PowerProfile, error) {
	return get[PowerProfile](ctx, c, "/v1/power/profile", scopeOf(scope))
}

// ChangePowerProfile sets and takes back fields at a scope, all or none. It is refused
// where a host below could not be reached any more for a reason that is plain to see.
func (c *Client) ChangePowerProfile(ctx context.Context, scope string, change ProfileChange, revision int64, dry bool) (PowerProfile, error) {
	q := scopeOf(scope)
	if dry {
		q.Set("dryRun", "true")
	}
	var out PowerProfile
	err := c.do(ctx, request{method: http.MethodPatch, path: "/v1/power/profile", query: q, body: change, revision: revision}, &out)
	return out, err
}
