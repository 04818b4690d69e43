// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Support is what one worker tells of itself for a support bundle. Nothing in it is a
// secret: see Record.
type Support struct {
	Worker     string            `json:"worker"`
	Boot       string            `json:"boot,omitempty"`
	Version    string            `json:"version"`
	Go         string            `json:"go"`
	At         time.Time         `json:"at"`
	Started    time.Time         `json:"started"`
	Options    map[string]string `json:"options"` // as configured; files by name, never their content
	Health     Health            `json:"health"`
	Etcd       []EtcdMember      `json:"etcd"`
	MirrorAge  string            `json:"mirrorAge"` // of its copy of etcd, a duration
	Claims     []string          `json:"claims"`    // slots it owns, with their epochs
	Metrics    string            `json:"metrics"`   // as /metrics shows them
	Goroutines string            `json:"goroutines,omitempty"`
}

// EtcdMember is an etcd member's word about itself, or what was wrong with asking.
type EtcdMember struct {
	Endpoint string   `json:"endpoint"`
	Version  string   `json:"version,omitempty"`
	Cluster  string   `json:"cluster,omitempty"`
	Member   string   `json:"member,omitempty"`
	Leader   string   `json:"leader,omitempty"`
	Revision int64    `json:"revision,omitempty"`
	Term     uint64   `json:"term,omitempty"`
	Index    uint64   `json:"index,omitempty"`
	Size     int64    `json:"size,omitempty"`  // bytes
	InUse    int64    `json:"inUse,omitempty"` // bytes
	Errors   []string `json:"errors,omitempty"`
}

// Record is a record in etcd, without anything that is a secret or proves one: sealed
// texts, hashes, credentials, parameters of devices, arguments of programs.
type Record struct {
	Key      string          `json:"key"`
	Revision int64           `json:"revision"`
	Value    json.RawMessage `json:"value"`
}

// Support asks a worker about itself, with a dump of its goroutines if wanted.
func (c *Client) Support(ctx context.Context, worker string, goroutines bool) (Support, error) {
	var out Support
	q := url.Values{}
	if goroutines {
		q.Set("goroutines", strconv.FormatBool(true))
	}
	err := c.do(ctx, request{method: http.MethodGet, path: workerPath(worker, "/support"), query: q, timeout: orderTimeout}, &out)
	return out, err
}

// Records lists the records of one kind, the first part of their keys below the root such
// as hosts, without secrets.
func (c *Client) Records(ctx context.Context, kind string) ([]Record, error) {
	return all[Record](ctx, c, "/v1/records", url.Values{"kind": {kind}})
}
