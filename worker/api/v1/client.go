// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ActorHeader carries the name of who asks, for the record, where nobody has to prove it:
// on loopback. It is a claim, noted together with the peer's address.
const ActorHeader = "Holdfast-Actor"

// KeyHeader names a request: sent again with the same value it is not carried out again.
// An answer that was given before carries RepeatedHeader, with the time of the first.
const (
	KeyHeader      = "Idempotency-Key"
	RepeatedHeader = "Holdfast-Repeated"
)

const (
	maxAnswer      = 64 << 20         // of one answer; a page of hosts is far below
	defaultTimeout = 15 * time.Second // of one call, all endpoints together
	minShare       = time.Second      // of one endpoint
)

// Options are the client's.
type Options struct {
	Endpoints []string          // base URLs or host:port, tried in order; at least one
	Timeout   time.Duration     // of one call, default 15s; watches have none
	Actor     string            // see ActorHeader
	Token     string            // bearer token; sent to every endpoint
	Transport http.RoundTripper // default: a pool of its own
	Lost      func(error)       // told each time a watch loses its connection and will try again

	// Run names what asks, such as one run of a program, by an id that nobody else uses. Each
	// POST then has a name of its own made of it (see WithKey), so that one whose answer was
	// lost is asked again and not carried out again. Those that answer a secret, which is told
	// once, have none.
	Run string
}

// Client talks to the workers of one fleet. It is safe for concurrent use and starts no
// goroutine that outlives a call.
type Client struct {
	endpoints []*url.URL
	timeout   time.Duration
	actor     string
	token     string
	http      *http.Client
	lost      func(error)
	run       string

	posts    atomic.Int64 // asked for, to name them
	good     atomic.Int64 // index of the endpoint that answered last
	answered atomic.Bool  // some endpoint has answered

	idle, backoff time.Duration // of watches: silence that means a dead connection; first pause before another try
}

// asked is how the calls under a context are made.
type asked struct {
	dry  bool
	will *DryRun
	key  string
}

type askedKey struct{}

func askedOf(ctx context.Context) asked {
	a, _ := ctx.Value(askedKey{}).(asked)
	return a
}

// WithDryRun makes dry runs of all changes that are asked for under the context: they are
// checked and answered, nothing is done. will, unless nil, takes the answer of those that
// have none of their own.
func WithDryRun(ctx context.Context, will *DryRun) context.Context {
	a := askedOf(ctx)
	a.dry, a.will = true, will
	return context.WithValue(ctx, askedKey{}, a)
}

// WithKey names the one POST that is asked for under the context: sent again under the same
// name, by this process or another, it is not carried out again. When no answer comes it is
// tried at the next endpoint.
func WithKey(ctx context.Context, key string) context.Context {
	a := askedOf(ctx)
	a.key = key
	return context.WithValue(ctx, askedKey{}, a)
}

// NewClient checks the options; it asks nobody.
func NewClient(o Options) (*Client, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("endpoints: empty, at least one is needed")
	}
	c := &Client{timeout: o.Timeout, actor: o.Actor, token: o.Token, lost: o.Lost, run: o.Run, idle: 3 * heartbeat, backoff: 200 * time.Millisecond}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		}
	}
	c.http = &http.Client{Transport: o.Transport}
	for _, e := range o.Endpoints {
		u, err := parseEndpoint(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, u)
	}
	return c, nil
}

func parseEndpoint(s string) (*url.URL, error) {
	full := s
	if !strings.Contains(s, "://") {
		full = "http://" + s
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("endpoints: %q: not an address, allowed is http(s)://host:port or host:port", s)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// request is one call of the API.
type request struct {
	method, path string // path is escaped
	query        url.Values
	body         any
	revision     int64         // of If-Match; -1: whatever is there; 0: must not exist
	timeout      time.Duration // 0: the client's
	told         bool          // the answer tells a secret once: a repetition would not have it
}

// do calls the API and decodes the answer into out, which may be nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	for _, part := range strings.Split(r.path[1:], "/") {
		if part == "" || part == "." || part == ".." { // servers would take it for another path
			return Problemf(CodeBadRequest, "path %q: a name in it is empty, . or ..", r.path)
		}
	}
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return Problemf(CodeInternal, "encode request: %v", err)
		}
	}
	write, how := r.method != http.MethodGet, askedOf(ctx)
	if write && how.dry {
		q := url.Values{"dryRun": {"true"}}
		for name, values := range r.query {
			q[name] = values
		}
		if r.query = q; out == nil && how.will != nil {
			out = how.will
		}
	}
	key := c.nameOf(r, how)
	named := key != ""
	timeout := c.timeout
	if r.timeout > timeout {
		timeout = r.timeout
	}
	caller := ctx
	ctx, cancel := withTimeout(ctx, timeout)
	defer cancel()
	if write && len(c.endpoints) > 1 && !c.answered.Load() {
		// A write cannot be tried elsewhere once it was sent: find a worker that answers first.
		if _, err := c.Version(ctx); err != nil {
			return err
		}
	}
	var failed []string
	var last *Problem
	unheard := false // it was sent, and what became of it is not known
	first, tries := int(c.good.Load()), len(c.endpoints)
	if named {
		tries++ // so that the only worker is asked again, too
	}
	for i := range tries {
		if i == len(c.endpoints) && (!unheard || !pause(ctx, defaultBusy)) {
			break
		}
		n := (first + i) % len(c.endpoints)
		share := timeout
		if !write && i < len(c.endpoints)-1 {
			share = max(timeout/time.Duration(len(c.endpoints)+1), minShare) // a paused worker accepts and stays mute
		}
		err := c.try(ctx, n, share, key, r, body, out)
		for busy := 0; c.waitOut(ctx, err, busy); busy++ {
			err = c.try(ctx, n, share, key, r, body, out) // nothing was done, or it has a name: a write, too
		}
		var p *Problem
		switch {
		case err == nil:
			c.good.Store(int64(n))
			c.answered.Store(true)
			return nil
		case errors.As(err, &p) && p.Status != http.StatusServiceUnavailable:
			c.good.Store(int64(n))
			c.answered.Store(true)
			return p
		case errors.As(err, &p):
			last = p
			failed = append(failed, fmt.Sprintf("%s: %v", c.endpoints[n].Host, err))
		default:
			if errors.Is(caller.Err(), context.Canceled) {
				return context.Canceled
			}
			failed = append(failed, fmt.Sprintf("%s: %s", c.endpoints[n].Host, plain(err)))
			unheard = unheard || write && !notSent(err)
			if unheard && !named {
				c.good.Store(int64((n + 1) % len(c.endpoints)))
				return unknownOutcome(failed)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if unheard {
		return unknownOutcome(failed)
	}
	if last != nil && len(failed) <= 1 {
		return last
	}
	p := Problemf(CodeUnavailable, "no worker answered: %s", strings.Join(failed, "; "))
	p.Hint = "is the address right and a worker running there?"
	if last != nil {
		p.Hint = last.Hint
	}
	return p
}

// unknownOutcome is what is known of a write that was sent and got no answer.
func unknownOutcome(failed []string) *Problem {
	return Problemf(CodeUnknownOutcome, "no answer, it may or may not have been done: %s", strings.Join(failed, "; ")).
		WithHint("look before you repeat it: holdfast events")
}

// nameOf is the Idempotency-Key of a request; empty: it has none, and is not asked again
// once it was sent.
func (c *Client) nameOf(r request, how asked) string {
	switch {
	case r.method != http.MethodPost || how.dry:
		return ""
	case how.key != "":
		return how.key
	case c.run == "" || r.told:
		return ""
	}
	return fmt.Sprintf("%s-%d", c.run, c.posts.Add(1))
}

const (
	// defaultBusy is how long a caller waits that has sent more than its share of requests and
	// was not told; each time twice as long, up to maxBusy.
	defaultBusy = 500 * time.Millisecond
	maxBusy     = 8 * time.Second
)

// waitOut waits as long as a worker asks for that refused a request for being one too many,
// jittered, or, where it does not say, longer each time. False: err is something else, or ctx
// would end first, and then the refusal is the answer.
func (c *Client) waitOut(ctx context.Context, err error, times int) bool {
	var b *busyError
	if !errors.As(err, &b) {
		return false
	}
	wait := max(b.after, min(defaultBusy<<min(times, 8), maxBusy))
	wait += time.Duration(rand.Float64() * float64(wait) / 4)
	if end, limited := ctx.Deadline(); limited && time.Until(end) < wait+minShare/4 {
		return false
	}
	return pause(ctx, wait)
}

// pause waits; false: ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// busyError is a 429: the caller has sent more requests than its share, nothing was done. Or
// a 409 that says when to ask again: a request of that name is still carried out.
type busyError struct {
	*Problem
	after time.Duration // as the worker has it; 0: it does not say
}

// Unwrap gives the problem itself.
func (b *busyError) Unwrap() error { return b.Problem }

// retryAfter reads the header: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if s, err := strconv.Atoi(text); err == nil && s > 0 {
		return min(time.Duration(s)*time.Second, time.Hour)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// try asks one endpoint.
func (c *Client) try(ctx context.Context, n int, share time.Duration, key string, r request, body []byte, out any) error {
	ctx, cancel := withTimeout(ctx, share)
	defer cancel()
	resp, err := c.send(ctx, n, key, r, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return cause(ctx, err)
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusConflict && key != "" && resp.Header.Get("Retry-After") != "":
		return &busyError{problemOf(resp, b), retryAfter(resp.Header, time.Now())}
	case resp.StatusCode/100 != 2:
		return problemOf(resp, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return Problemf(CodeInternal, "decode the answer of %s: %v", c.endpoints[n].Host, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, n int, key string, r request, body []byte) (*http.Response, error) {
	target := c.endpoints[n].String() + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, rd)
	if err != nil {
		return nil, Problemf(CodeBadRequest, "make request: %v", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set(KeyHeader, key)
	}
	if c.actor != "" {
		req.Header.Set(ActorHeader, c.actor)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.method == http.MethodPut || r.method == http.MethodPatch || r.method == http.MethodDelete {
		switch {
		case r.revision == 0:
			req.Header.Set("If-None-Match", "*")
		case r.revision > 0:
			req.Header.Set("If-Match", fmt.Sprintf(`"%d"`, r.revision))
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, cause(ctx, err)
	}
	return resp, nil
}

// withTimeout ends with a cause that operators can read.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %v", d.Round(time.Millisecond)))
}

// cause prefers the reason why ctx ended over "context deadline exceeded".
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// problemOf reads the error of an answer that is none of 2xx.
func problemOf(resp *http.Response, b []byte) *Problem {
	var p Problem
	if json.Unmarshal(b, &p) == nil && p.Code != "" {
		q := p.Complete()
		q.Have, _ = strconv.ParseInt(strings.Trim(resp.Header.Get("ETag"), `"`), 10, 64) // none: 0
		return q
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if len(line) > 200 {
		line = line[:200]
	}
	// Not a worker's word: something in between. What became of the request is unknown.
	code := CodeInternal
	switch resp.StatusCode {
	case http.StatusServiceUnavailable:
		code = CodeUnavailable
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		code = CodeUnknownOutcome
	}
	return Problemf(code, "%s", strings.TrimSpace(fmt.Sprintf("answer %s %s", resp.Status, line)))
}

// notSent says whether a request certainly never reached a worker.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// plain strips the method and URL that net/http puts before every error.
func plain(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		err = op.Err
	}
	return err.Error()
}
