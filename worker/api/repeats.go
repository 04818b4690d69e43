// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// keyHeader names a request, so that its repetition is known as one.
const keyHeader = v1.KeyHeader

const (
	maxKey      = 200
	maxRepeated = 32 << 10         // bytes of an answer that are kept
	stillWorks  = 2 * orderTimeout // a request that began longer ago has ended somehow
)

// Repeat is what is on record of one request with an Idempotency-Key: the value of
// requests/<id>. While it is carried out it has no status.
type Repeat struct {
	V      int             `json:"v"`
	Print  string          `json:"print"` // SHA-256 of method, address and body
	By     string          `json:"by"`
	At     time.Time       `json:"at"`
	Status int             `json:"status,omitempty"`
	ETag   string          `json:"etag,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"` // without what is told only once
}

// Repeats keeps them, for all workers, a day and a bounded number of them.
type Repeats interface {
	// BeginRequest puts a request on record. It is not ours to carry out when there is one
	// with that id already, which is then the answer.
	BeginRequest(ctx context.Context, id string, r Repeat) (was *Repeat, err error)
	// EndRequest replaces what is on record of a request; nil: nothing was done, forget it.
	EndRequest(ctx context.Context, id string, r *Repeat) error
}

// once carries a request out unless its Idempotency-Key says that it was before.
func (c *call) once(w http.ResponseWriter) error {
	key := c.r.Header.Get(keyHeader)
	// A worker that passes a request on has looked already.
	if key == "" || c.o.Repeats == nil || DryRun(c.ctx()) != nil || c.r.Header.Get(forwardedHeader) != "" {
		return c.route.handler(c)
	}
	if len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return v1.BadField(keyHeader, "%.40q, allowed are 1 to %d visible ASCII characters", key, maxKey)
	}
	body, err := io.ReadAll(c.r.Body)
	if err != nil {
		return fmt.Errorf("read request body: %w", err)
	}
	c.r.Body = io.NopCloser(bytes.NewReader(body))
	who := callerOf(c.r)
	id := digest(who.By, orName(who.Token, who.Name), key)
	rec := Repeat{V: 1, Print: digest(c.r.Method, c.r.URL.RequestURI(), string(body)), By: c.who, At: time.Now().UTC()}
	was, err := c.o.Repeats.BeginRequest(c.ctx(), id, rec)
	switch {
	case err != nil:
		return err
	case was != nil:
		return c.again(was, rec)
	}
	a := &answer{header: w.Header()}
	c.w = a
	if err := c.route.handler(c); err != nil {
		c.failed(a, err)
	}
	end := &rec
	if rec.Status, rec.ETag, rec.Answer = a.status, a.header.Get("ETag"), keepable(a.body.Bytes()); nothingDone(a.status) {
		end = nil
	}
	// Although the caller may have gone: the next one is told what became of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx()), readForward)
	defer cancel()
	if err := c.o.Repeats.EndRequest(ctx, id, end); err != nil {
		c.o.Logger.Warn("answer of a request with an Idempotency-Key was not recorded", "path", c.r.URL.Path, "who", c.who, "cause", err)
	}
	if a.status > 0 { // else the caller has gone, and with it the answer of the owner
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body.Bytes()) // the caller has gone: nobody to tell
	}
	return nil
}

// nothingDone says of a status that the request left no trace: it may be tried again.
func nothingDone(status int) bool {
	return status >= 400 && status < 500 || status == http.StatusServiceUnavailable
}

// again answers a request that was made before.
func (c *call) again(was *Repeat, now Repeat) error {
	switch {
	case was.Print != now.Print:
		return v1.Problemf(v1.CodeKeyReused, "Idempotency-Key: given with another request at %s by %s", was.At.Format(time.RFC3339), was.By).
			WithHint("take a new key for a new request; the same key only for the very same method, address and body")
	case was.Status == 0 && now.At.Sub(was.At) < stillWorks:
		c.w.Header().Set("Retry-After", "1")
		return v1.Problemf(v1.CodeConflict, "the request with this Idempotency-Key, begun at %s, is still carried out", was.At.Format(time.RFC3339)).WithHint("ask again in a moment")
	case was.Status == 0:
		return v1.Problemf(v1.CodeUnknownOutcome, "the request with this Idempotency-Key began at %s and was not seen to end, it may or may not have been done", was.At.Format(time.RFC3339)).
			WithHint("look whether it was, then repeat it with another key if it was not")
	}
	h := c.w.Header()
	h.Set(v1.RepeatedHeader, was.At.Format(time.RFC3339))
	if was.ETag != "" {
		h.Set("ETag", was.ETag)
	}
	kind := "application/json"
	if was.Status >= 400 {
		kind = "application/problem+json"
	}
	if len(was.Answer) == 0 {
		c.w.WriteHeader(was.Status)
		return nil
	}
	writeJSON(c.w, was.Status, kind, was.Answer)
	return nil
}

// keepable is an answer as it may be kept: without the secret of a token, which is told
// once, and only if it is not too long.
func keepable(body []byte) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) == nil {
		if _, ok := fields["secret"]; ok {
			delete(fields, "secret")
			body, _ = json.Marshal(fields) // raw messages always encode
		}
	}
	if len(body) > maxRepeated || !json.Valid(body) {
		return nil
	}
	return bytes.TrimSpace(body)
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:40]
}

// answer keeps what a handler answers.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}
