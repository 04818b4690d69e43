// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Role is what somebody who asks the API may do; each includes the ones before it.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"   // looks
	Operator Role = "operator" // acts on what is declared: power, maintenance, HA, drains
	Admin    Role = "admin"    // declares, configures, and says who is trusted
)

// Roles are all roles, the least first.
var Roles = []Role{Viewer, Operator, Admin}

// Valid says whether there is such a role.
func (r Role) Valid() bool { return slices.Contains(Roles, r) }

// May says whether the role includes another one.
func (r Role) May(need Role) bool {
	return r.Valid() && need.Valid() && slices.Index(Roles, r) >= slices.Index(Roles, need)
}

// Whoami is whom the API takes the caller for.
type Whoami struct {
	Name    string    `json:"name"` // as in the audit log
	Role    Role      `json:"role"`
	By      string    `json:"by"` // certificate, token, or loopback: nobody is asked there
	Token   string    `json:"token,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// TokenRequest asks for a bearer token.
type TokenRequest struct {
	Name   string `json:"name"` // goes into the audit log as token/NAME
	Role   Role   `json:"role"`
	For    string `json:"for,omitempty"` // how long it is good, default 720h, up to 8760h
	Reason string `json:"reason,omitempty"`
}

// Token is what is on record of a bearer token.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"`
	Secret  string    `json:"secret,omitempty"` // the token itself: in the answer that made it, never again
}

// JoinTokenRequest asks for a token with which a host gets its first certificate.
type JoinTokenRequest struct {
	Host   string `json:"host"`
	For    string `json:"for,omitempty"` // how long it is good, default 1h, up to 168h
	Reason string `json:"reason,omitempty"`
}

// JoinToken is what is on record of a join token.
type JoinToken struct {
	ID      string    `json:"id"`
	Host    string    `json:"host"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"`
	Secret  string    `json:"secret,omitempty"` // the token itself: in the answer that made it, never again
}

// AuthorityRequest asks for a new authority of the fleet's own.
type AuthorityRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Authority is one of the fleet's own authorities.
type Authority struct {
	ID        string    `json:"id"`
	State     string    `json:"state"` // waiting: every worker is to know it first; signs; accepted: what it has signed is good until its end; ended
	Signs     time.Time `json:"signs"` // from then on, until a newer one does
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Pin       string    `json:"pin"`      // SHA-256 of its public key
	Readable  string    `json:"readable"` // its key: yes, or why the worker that answers cannot open it
	Current   int       `json:"current"`  // certificates of it that have not ended
	By        string    `json:"by"`
	At        time.Time `json:"at"`
}

// Certificate is one that the fleet's own authority has issued, or one that was revoked.
type Certificate struct {
	Serial    string    `json:"serial"`
	Identity  string    `json:"identity,omitempty"` // empty: revoked by its serial alone
	Authority string    `json:"authority,omitempty"`
	State     string    `json:"state"` // good, ended or revoked
	How       string    `json:"how,omitempty"`
	At        time.Time `json:"at,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
	RevokedBy string    `json:"revokedBy,omitempty"`
	Reason    string    `json:"reason,omitempty"`
}

// RevokeRequest asks that certificates are worth nothing from now on.
type RevokeRequest struct {
	Serials []string `json:"serials,omitempty"` // hexadecimal, of any authority
	Host    string   `json:"host,omitempty"`    // all of this host that the fleet has issued
	Reason  string   `json:"reason,omitempty"`
}

// Audit is one change that somebody has made.
type Audit struct {
	ID      string        `json:"id"` // of its event too
	At      time.Time     `json:"at"`
	Who     string        `json:"who"`
	What    string        `json:"what"` // type of its event
	Message string        `json:"message"`
	Reason  string        `json:"reason,omitempty"`
	Host    string        `json:"host,omitempty"`
	Worker  string        `json:"worker"`
	Changes []AuditChange `json:"changes,omitempty"`
}

// AuditChange is what became of one record; fields that stayed are left out, and secrets
// are never in it.
type AuditChange struct {
	Key    string                     `json:"key"`
	Before map[string]json.RawMessage `json:"before,omitempty"`
	After  map[string]json.RawMessage `json:"after,omitempty"`
}

// Whoami tells whom the API takes us for.
func (c *Client) Whoami(ctx context.Context) (Whoami, error) {
	return get[Whoami](ctx, c, "/v1/auth/whoami", nil)
}

// Tokens lists the bearer tokens.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return all[Token](ctx, c, "/v1/auth/tokens", nil)
}

// CreateToken makes a bearer token; the answer alone has it.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (Token, error) {
	return tell[Token](ctx, c, "/v1/auth/tokens", r)
}

// RevokeToken ends a bearer token.
func (c *Client) RevokeToken(ctx context.Context, id, reason string) error {
	return c.remove(ctx, "/v1/auth/tokens/", id, reason)
}

// JoinTokens lists the join tokens.
func (c *Client) JoinTokens(ctx context.Context) ([]JoinToken, error) {
	return all[JoinToken](ctx, c, "/v1/join-tokens", nil)
}

// CreateJoinToken makes a join token; the answer alone has it.
func (c *Client) CreateJoinToken(ctx context.Context, r JoinTokenRequest) (JoinToken, error) {
	return tell[JoinToken](ctx, c, "/v1/join-tokens", r)
}

// RevokeJoinToken ends a join token.
func (c *Client) RevokeJoinToken(ctx context.Context, id, reason string) error {
	return c.remove(ctx, "/v1/join-tokens/", id, reason)
}

// Authorities lists the fleet's own authorities.
func (c *Client) Authorities(ctx context.Context) ([]Authority, error) {
	return all[Authority](ctx, c, "/v1/authorities", nil)
}

// CreateAuthority makes a new authority, which replaces the one that signs a minute later.
func (c *Client) CreateAuthority(ctx context.Context, r AuthorityRequest) (Authority, error) {
	return post[Authority](ctx, c, "/v1/authorities", nil, r)
}

// RetireAuthority forgets an authority: what it has signed is worth nothing then.
func (c *Client) RetireAuthority(ctx context.Context, id, reason string, force bool) error {
	q := url.Values{}
	set(q, "reason", reason)
	if force {
		q.Set("force", "true")
	}
	return c.do(ctx, request{method: http.MethodDelete, path: "/v1/authorities/" + url.PathEscape(id), query: q, revision: -1}, nil)
}

// Certificates lists what was issued or revoked; host "" is all.
func (c *Client) Certificates(ctx context.Context, host string) ([]Certificate, error) {
	q := url.Values{}
	set(q, "host", host)
	return all[Certificate](ctx, c, "/v1/certificates", q)
}

// RevokeCertificates makes certificates worth nothing; the answer says which.
func (c *Client) RevokeCertificates(ctx context.Context, r RevokeRequest) ([]Certificate, error) {
	l, err := post[List[Certificate]](ctx, c, "/v1/certificates/revoke", nil, r)
	return l.Items, err
}

// Audits lists what was changed by whom, the newest first; host "" is everything. limit 0 is
// the server's choice.
func (c *Client) Audits(ctx context.Context, host string, limit int) ([]Audit, error) {
	q := url.Values{}
	set(q, "host", host)
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	l, err := get[List[Audit]](ctx, c, "/v1/audit", q)
	return l.Items, err
}

func (c *Client) remove(ctx context.Context, base, id, reason string) error {
	q := url.Values{}
	set(q, "reason", reason)
	return c.do(ctx, request{method: http.MethodDelete, path: base + url.PathEscape(id), query: q, revision: -1}, nil)
}
