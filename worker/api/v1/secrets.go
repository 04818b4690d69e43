// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// SecretSealed is the value of Device.Secret that refers to the sealed secret on record.
const SecretSealed = "sealed"

// Password is a secret on its way into the fleet; it never comes back. It prints as
// [secret]; only JSON, which is the wire, carries its value.
type Password []byte

// MarshalText is the value itself.
func (p Password) MarshalText() ([]byte, error) { return p, nil }

// UnmarshalText keeps a copy, which Clear wipes.
func (p *Password) UnmarshalText(b []byte) error { *p = append(Password(nil), b...); return nil }

// Clear wipes the value.
func (p Password) Clear() { clear(p) }

// Format, String and LogValue print no password, whatever the verb.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }
func (Password) String() string             { return "[secret]" }
func (Password) GoString() string           { return "[secret]" }
func (Password) LogValue() slog.Value       { return slog.StringValue("[secret]") }

// SecretRequest asks for new credentials of a power device.
type SecretRequest struct {
	User     string   `json:"user,omitempty"` // empty: the user that the device declares
	Password Password `json:"password"`
	NoTest   bool     `json:"noTest,omitempty"` // store it although the device was not asked
}

// SecretStatus is all that is ever told of a sealed secret.
type SecretStatus struct {
	Host     string    `json:"host"`
	Device   string    `json:"device"`
	Ref      string    `json:"ref"` // where the device takes its credentials from: sealed, env:NAME, file:PATH; empty: not declared
	Set      bool      `json:"set"`
	Key      string    `json:"key,omitempty"`      // id of the key it is sealed under
	Newest   bool      `json:"newest,omitempty"`   // that key is the one that seals now
	Readable string    `json:"readable,omitempty"` // yes, or why the worker that answers cannot open it
	At       time.Time `json:"at,omitzero"`        // when it was set
	By       string    `json:"by,omitempty"`
	Tested   bool      `json:"tested,omitempty"` // the device accepted it before it was stored
	Revision int64     `json:"revision,omitempty"`
	Warnings []string  `json:"warnings,omitempty"` // only in the answer to a change
}

// ResealRequest asks that secrets are sealed anew under the newest key.
type ResealRequest struct {
	Limit int  `json:"limit,omitempty"` // at most so many in one call, 1 to 500, default 100
	Force bool `json:"force,omitempty"` // although some worker does not have the key, or does not say
}

// ResealResult says what one call did; with dryRun what it would do.
type ResealResult struct {
	Key    string   `json:"key"`              // the newest key
	Total  int      `json:"total"`            // secrets on record
	Done   []string `json:"done,omitempty"`   // host/device
	Failed []string `json:"failed,omitempty"` // host/device: why
	Left   int      `json:"left"`             // still under an older key, Failed not counted
}

func secretPath(host, device string) string {
	return hostPath(host, "/devices/"+url.PathEscape(device)+"/secret")
}

// PutSecret stores new credentials of a device, tested on it first unless r says no.
// Revision -1: whatever is there; 0: there must be none; else the one it must have. A
// Problem with status 504 means that the outcome is unknown.
func (c *Client) PutSecret(ctx context.Context, host, device string, r SecretRequest, revision int64) (SecretStatus, error) {
	var out SecretStatus
	err := c.do(ctx, request{method: http.MethodPut, path: secretPath(host, device), body: r, revision: revision, timeout: orderTimeout}, &out)
	return out, err
}

// Secret tells what is on record of a device's sealed secret; never the secret.
func (c *Client) Secret(ctx context.Context, host, device string) (SecretStatus, error) {
	return get[SecretStatus](ctx, c, secretPath(host, device), nil)
}

// DeleteSecret forgets a device's sealed secret; revision as in PutSecret.
func (c *Client) DeleteSecret(ctx context.Context, host, device string, revision int64) error {
	return c.do(ctx, request{method: http.MethodDelete, path: secretPath(host, device), revision: revision}, nil)
}

// Secrets lists all devices that have a sealed secret or refer to one.
func (c *Client) Secrets(ctx context.Context) ([]SecretStatus, error) {
	return all[SecretStatus](ctx, c, "/v1/secrets", nil)
}

// Reseal seals some secrets anew under the newest key; repeat it until none is left.
func (c *Client) Reseal(ctx context.Context, r ResealRequest, dry bool) (ResealResult, error) {
	return post[ResealResult](ctx, c, "/v1/secrets/reseal", dryRun(dry), r)
}
