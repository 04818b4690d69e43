// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Values of HookSpec.Kind.
const (
	HookWeb  = "webhook" // an HTTPS receiver
	HookExec = "exec"    // a program on the workers
)

// HookSpec is what operators declare of a hook, its secrets apart: who is told of which
// events, and how long it is tried. docs/hooks.md says what receivers get.
type HookSpec struct {
	Kind       string   `json:"kind"`                 // webhook or exec
	Target     string   `json:"target"`               // webhook: scheme and host of its URL, computed; exec: absolute path of the program
	Args       []string `json:"args,omitempty"`       // exec: never a secret, everybody on the worker's machine can read them
	CA         string   `json:"ca,omitempty"`         // webhook: authorities of the receiver's certificate as PEM; empty: the system's
	Source     string   `json:"source,omitempty"`     // CloudEvents source, an URI reference; empty: /holdfast
	Types      []string `json:"types,omitempty"`      // event types, `host.*` for all that begin so; empty: all
	Severities []string `json:"severities,omitempty"` // info, warning, page; empty: all
	Scopes     []string `json:"scopes,omitempty"`     // zone/…, pod/…, cluster/…, host/…; empty or global: all
	Timeout    string   `json:"timeout,omitempty"`    // of one attempt, a duration of 1s to 60s, default 10s
	RetryMax   string   `json:"retryMax,omitempty"`   // longest wait between two attempts, 1s to 1h, default 5m
	// It is switched off by itself when that many attempts in a row have failed and that
	// time has gone by since the last that did not.
	DisableFailures int    `json:"disableFailures,omitempty"` // 1 to 10000, default 20
	DisableAfter    string `json:"disableAfter,omitempty"`    // 1m to 168h, default 24h
	Disabled        bool   `json:"disabled,omitempty"`        // by an operator: nothing is sent, the cursor stays
}

// HookRequest declares a hook. Of one that is there, URL and Key may be left out to keep
// what is sealed.
type HookRequest struct {
	HookSpec
	URL    Password `json:"url,omitempty"`   // webhook: https://…, or http:// to this machine; kept sealed, never shown
	Key    Password `json:"key,omitempty"`   // webhook: signs what is sent (HMAC-SHA256), 16 to 256 bytes or whsec_<base64>; kept sealed, never shown
	Since  string   `json:"since,omitempty"` // a new hook: also events since then, an RFC 3339 time or a duration back from now; empty: from now on
	Reason string   `json:"reason,omitempty"`
}

// Hook is a hook as it is on record.
type Hook struct {
	Name string `json:"name"`
	HookSpec
	By        string     `json:"by"`
	At        time.Time  `json:"at"`                  // of the last change
	SealedKey string     `json:"sealedKey,omitempty"` // id of the key its secrets are sealed under
	Owner     string     `json:"owner,omitempty"`     // worker that delivers
	Status    HookStatus `json:"status"`
	Revision  int64      `json:"revision"`
}

// HookStates are the values of HookStatus.State: it follows the log; attempts fail; it was
// switched off by itself; an operator switched it off; no worker owns it now.
var HookStates = []string{"delivering", "failing", "disabled", "off", "unowned"}

// HookStatus is how far a hook is. It is written every few seconds at most.
type HookStatus struct {
	State        string    `json:"state"`
	Cursor       int64     `json:"cursor"`                // revision of the event that was delivered, or passed over, last
	Behind       int       `json:"behind"`                // events in the log after it, those that the hook does not select included
	Delivered    time.Time `json:"delivered,omitzero"`    // last success
	Failures     int       `json:"failures,omitempty"`    // attempts in a row
	FailingSince time.Time `json:"failingSince,omitzero"` // first of them
	LastError    string    `json:"lastError,omitempty"`
	Disabled     time.Time `json:"disabledAt,omitzero"` // when it was switched off by itself
	Gaps         int       `json:"gaps,omitempty"`      // times that the log had dropped events before they were delivered
	Gap          time.Time `json:"gapAt,omitzero"`      // last of them
}

// HookTest says what came of a test event.
type HookTest struct {
	Hook   string `json:"hook"`
	Worker string `json:"worker"` // that sent it
	ID     string `json:"id"`     // of the event
	OK     bool   `json:"ok"`
	Took   string `json:"took"`
	Error  string `json:"error,omitempty"`
}

func hookPath(name, rest string) string { return "/v1/hooks/" + url.PathEscape(name) + rest }

// Hooks lists all hooks.
func (c *Client) Hooks(ctx context.Context) ([]Hook, error) {
	return all[Hook](ctx, c, "/v1/hooks", nil)
}

// Hook reads one hook.
func (c *Client) Hook(ctx context.Context, name string) (Hook, error) {
	return get[Hook](ctx, c, hookPath(name, ""), nil)
}

// PutHook declares a hook. Revision -1: whatever is there; 0: there must be none; else
// the one it must have. Repeating it is harmless.
func (c *Client) PutHook(ctx context.Context, name string, r HookRequest, revision int64) (Hook, error) {
	var out Hook
	err := c.do(ctx, request{method: http.MethodPut, path: hookPath(name, ""), body: r, revision: revision}, &out)
	return out, err
}

// DeleteHook forgets a hook and its cursor; revision as in PutHook.
func (c *Client) DeleteHook(ctx context.Context, name string, revision int64) error {
	return c.do(ctx, request{method: http.MethodDelete, path: hookPath(name, ""), revision: revision}, nil)
}

// EnableHook lets a hook deliver, from where it had stopped, or stops it.
func (c *Client) EnableHook(ctx context.Context, name string, s Switch) (Hook, error) {
	return post[Hook](ctx, c, hookPath(name, "/enabled"), nil, s)
}

// TestHook sends one test event at once. That it was not taken is in the answer, not an
// error.
func (c *Client) TestHook(ctx context.Context, name string) (HookTest, error) {
	var out HookTest
	err := c.do(ctx, request{method: http.MethodPost, path: hookPath(name, "/test"), timeout: orderTimeout}, &out)
	return out, err
}
