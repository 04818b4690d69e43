// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// heartbeat is how often a server says something on an otherwise silent stream.
const heartbeat = 15 * time.Second

const (
	maxLine    = 4 << 20
	maxBackoff = 5 * time.Second
)

// WatchEvents calls fn for each event after q.After, then for each new one, until ctx
// ends or fn returns an error, which it passes on. A lost connection is taken up again
// at the next endpoint where it was left: no event is lost, none comes twice.
func (c *Client) WatchEvents(ctx context.Context, q EventQuery, fn func(Event) error) error {
	var last int64
	seen := map[string]bool{} // ids at revision last: one transaction may write several
	return c.watch(ctx, "/v1/events", q.values(), func() string {
		if last == 0 {
			return ""
		}
		return strconv.FormatInt(last, 10)
	}, func(_ string, data []byte) error {
		if len(data) == 0 {
			return nil
		}
		var e Event
		if err := json.Unmarshal(data, &e); err != nil {
			return Problemf(CodeInternal, "decode event: %v", err)
		}
		if e.Revision < last || e.Revision == last && seen[e.ID] {
			return nil
		}
		if e.Revision > last {
			last = e.Revision
			clear(seen)
		}
		seen[e.ID] = true
		return fn(e)
	})
}

// WatchHosts calls fn for each selected host, then for each change, until ctx ends or fn
// returns an error, which it passes on. A host that is gone, or not selected any more, comes
// with Deleted. A lost connection is taken up again at the next endpoint where it was left:
// hosts that changed meanwhile come, some of them perhaps again. Where that is too long ago
// all present hosts come again.
func (c *Client) WatchHosts(ctx context.Context, q HostQuery, fn func(Host) error) error {
	w := hostWatch{fn: fn, known: map[string]bool{}}
	for {
		err := c.watch(ctx, "/v1/hosts", q.values(), w.resume, w.take)
		var p *Problem
		if w.last == "" || !errors.As(err, &p) || p.Code != CodeCompacted {
			return err
		}
		w.last = ""
	}
}

// hostWatch is how far a watch of hosts has come.
type hostWatch struct {
	fn    func(Host) error
	last  string          // id up to which all was told; empty: nothing to go on from
	known map[string]bool // hosts that were told of and are not gone
	again map[string]bool // of a stream that begins with all hosts: those told of so far; else nil
}

func (w *hostWatch) resume() string {
	w.again = nil
	if w.last == "" {
		w.again = map[string]bool{}
	}
	return w.last
}

func (w *hostWatch) take(id string, data []byte) error {
	if len(data) == 0 {
		w.last = id
		return w.forget()
	}
	var h Host
	if err := json.Unmarshal(data, &h); err != nil {
		return Problemf(CodeInternal, "decode host: %v", err)
	}
	return w.tell(h)
}

func (w *hostWatch) tell(h Host) error {
	switch {
	case !h.Deleted:
		w.known[h.Spec.ID] = true
		if w.again != nil {
			w.again[h.Spec.ID] = true
		}
	case !w.known[h.Spec.ID]:
		return nil
	default:
		delete(w.known, h.Spec.ID)
	}
	return w.fn(h)
}

// forget tells of hosts that are not among all that are there.
func (w *hostWatch) forget() error {
	if w.again == nil {
		return nil
	}
	for id := range w.known {
		if !w.again[id] {
			if err := w.tell(Host{Spec: HostSpec{ID: id}, Deleted: true}); err != nil {
				return err
			}
		}
	}
	w.again = nil
	return nil
}

// lostError marks what a watch survives by connecting again.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// watch keeps one stream of server-sent events going. The first connection must succeed
// at some endpoint; later ones are tried until ctx ends.
func (c *Client) watch(ctx context.Context, path string, q url.Values, resume func() string, fn func(id string, data []byte) error) error {
	q.Set("watch", "true")
	pause := c.backoff
	connected := false
	var failed []string
	for n := int(c.good.Load()); ; n = (n + 1) % len(c.endpoints) {
		got := false
		err := c.stream(ctx, n, path, q, resume(), func(id string, data []byte) error {
			got = true
			return fn(id, data)
		}, func() {
			connected = true
			c.good.Store(int64(n))
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var lost *lostError
		if !errors.As(err, &lost) {
			return err
		}
		if !connected {
			failed = append(failed, fmt.Sprintf("%s: %s", c.endpoints[n].Host, plain(lost.err)))
			if len(failed) < len(c.endpoints) {
				continue
			}
			return Problemf(CodeUnavailable, "no worker answered: %s", strings.Join(failed, "; ")).WithHint("is the address right and a worker running there?")
		}
		if got {
			pause = c.backoff
		}
		if c.lost != nil {
			c.lost(errors.New(plain(lost.err)))
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		pause = min(2*pause, maxBackoff)
	}
}

// stream reads one connection to its end. It returns a *lostError for everything that
// another endpoint may do better. fn gets each event with its id, and ids that come alone.
func (c *Client) stream(ctx context.Context, n int, path string, q url.Values, lastID string, fn func(id string, data []byte) error, open func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.idle, func() { cancel(fmt.Errorf("no word for %v", c.idle)) })
	defer silence.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.endpoints[n].String()+path+"?"+q.Encode(), nil)
	if err != nil {
		return Problemf(CodeBadRequest, "make request: %v", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &lostError{cause(ctx, err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return &lostError{cause(ctx, err)}
		}
		p := problemOf(resp, b)
		if p.Away() {
			return &lostError{p}
		}
		return p
	}
	open()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, maxLine)
	var kind, id string
	var data []byte
	for s.Scan() {
		silence.Reset(c.idle)
		name, value, _ := bytes.Cut(s.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(s.Bytes()) == 0: // end of one event
			if kind == "error" {
				return streamProblem(data)
			}
			if len(data) > 0 || id != "" {
				if err := fn(id, data); err != nil {
					return err
				}
			}
			kind, id, data = "", "", nil
		case string(name) == "id":
			id = string(value)
		case string(name) == "event":
			kind = string(value)
		case string(name) == "data":
			data = append(data, value...)
		}
	}
	if err := s.Err(); err != nil {
		return &lostError{cause(ctx, err)}
	}
	return &lostError{errors.New("the worker ended the stream")}
}

// streamProblem is the error a server sent inside a stream.
func streamProblem(data []byte) error {
	var p Problem
	if err := json.Unmarshal(data, &p); err != nil {
		return &lostError{fmt.Errorf("decode error of the stream: %w", err)}
	}
	if p.Away() {
		return &lostError{&p}
	}
	return &p
}
