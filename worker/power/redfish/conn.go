// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	opening     = "open session with"
	sessionsURI = "/redfish/v1/SessionService/Sessions"

	closeWait  = time.Second            // for the answer to the deletion of a session
	closeSpent = 150 * time.Millisecond // the same when the device was silent before or the caller is in a hurry
)

// conn is one transaction with one system.
type conn struct {
	config
	driver  *Driver
	link    *link
	token   string // of the session
	session string // path of the session to delete
	path    string // of the system
	opened  bool
	spent   *power.Error // why nothing can be asked any more

	fingerprint string    // of the certificate seen last
	last        system    // as last read
	readAt      time.Time // when

	closing sync.Once
}

// open gets a connection and, unless it is a kept one that has proven all before, reads
// the system over it.
func (c *conn) open(ctx context.Context) *power.Error {
	c.path = c.config.system
	found := ""
	if c.path == "" {
		found = c.driver.where(c)
		c.path = found
	}
	if c.basic {
		if c.link = c.driver.idle.take(c.proof()); c.link != nil {
			c.fingerprint = c.link.fingerprint
			if c.path != "" {
				return nil
			}
		}
	} else if e := c.login(ctx); e != nil {
		return e
	}
	if c.path != "" {
		e := c.read(ctx, opening)
		if e == nil || found == "" || e.Code != http.StatusNotFound {
			return e
		}
		c.driver.remember(c, "") // the hint was of another box
	}
	path, e := c.discover(ctx)
	if e != nil {
		return e
	}
	c.path = path
	if e := c.read(ctx, opening); e != nil {
		return e
	}
	c.driver.remember(c, path)
	return nil
}

// login opens a session (DSP0266 §13.3.4).
func (c *conn) login(ctx context.Context) *power.Error {
	body, err := json.Marshal(map[string]string{"UserName": c.cred.User(), "Password": c.cred.Password()})
	if err != nil {
		return power.BadConfig(opening+" "+c.target.Address, "user or password: cannot be written as JSON")
	}
	rep, e := c.exchange(ctx, opening, c.limits.Answer, request{method: http.MethodPost, path: sessionsURI, body: body, open: true})
	if e != nil {
		return e
	}
	c.token = rep.header.Get("X-Auth-Token")
	if c.session, err = c.local(rep.header.Get("Location")); err != nil || c.token == "" {
		return c.violation(opening, errors.New("the session has no token or no link"))
	}
	return nil
}

// request is one exchange to make.
type request struct {
	method, path string
	body         []byte
	etag         string
	open         bool         // carries no credentials of its own
	command      bool         // changes something on the host
	before       func() error // asked immediately before it leaves
}

func (c *conn) message(r request) *http.Request {
	h := http.Header{"Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "OData-Version": {"4.0"}, "User-Agent": {"holdfast"}}
	req := &http.Request{Method: r.method, URL: &url.URL{Scheme: c.scheme(), Host: c.address, Path: r.path}, Host: c.address, Header: h}
	if p, err := url.PathUnescape(r.path); err == nil && p != r.path {
		req.URL.Path, req.URL.RawPath = p, r.path
	}
	if r.body != nil {
		h.Set("Content-Type", "application/json")
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(r.body)), int64(len(r.body))
	}
	if r.etag != "" {
		h.Set("If-Match", r.etag)
	}
	switch {
	case r.open:
	case c.basic:
		req.SetBasicAuth(c.cred.User(), c.cred.Password())
	default:
		h.Set("X-Auth-Token", c.token)
	}
	return req
}

// exchange sends one request and returns its 2xx answer. It waits no longer than limit
// and ctx allow. A GET is repeated once when the peer had closed the connection in the
// meantime; nothing else ever is.
func (c *conn) exchange(ctx context.Context, what string, limit time.Duration, r request) (*reply, *power.Error) {
	if c.spent != nil {
		return nil, &power.Error{Kind: c.spent.Kind, Op: what + " " + c.target.Address, Detail: "the connection was given up after an earlier error", Err: c.spent}
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if c.link == nil {
			l, err := dial(bounded, c.config)
			if err != nil {
				return nil, c.give(c.unreached(ctx, what, err))
			}
			c.link, c.fingerprint = l, l.fingerprint
		}
		if r.before != nil {
			if bounded.Err() != nil {
				return nil, c.overdue(ctx, what)
			}
			if err := r.before(); err != nil {
				return nil, stopped(what+" "+c.target.Address, err)
			}
		}
		used := c.link.answered
		rep, heard, err := c.link.send(bounded, c.message(r))
		if err != nil {
			c.drop()
			if r.method == http.MethodGet && used && !heard && hungUp(err) && bounded.Err() == nil {
				continue
			}
			return nil, c.give(c.unanswered(ctx, what, err, r.command))
		}
		if c.link.final {
			c.drop()
		}
		if rep.status >= 200 && rep.status < 300 {
			return rep, nil
		}
		e := c.refused(what, rep, r.command)
		if e.Kind == corepower.AuthFailed {
			if c.opened {
				c.driver.wasRefused(c)
			}
			c.give(e)
		}
		return nil, e
	}
}

// give marks the connection as spent.
func (c *conn) give(e *power.Error) *power.Error {
	c.spent = e
	return e
}

func (c *conn) drop() {
	if c.link != nil {
		c.link.close(true)
		c.link = nil
	}
}

func (c *conn) get(ctx context.Context, what, path string) (*reply, *power.Error) {
	rep, e := c.exchange(ctx, what, c.limits.Answer, request{method: http.MethodGet, path: path})
	if e == nil && rep.status != http.StatusOK {
		return nil, c.violation(what, fmt.Errorf("status %d where 200 was due", rep.status))
	}
	return rep, e
}

// read reads the system into last; with an identity pinned it is that one's.
func (c *conn) read(ctx context.Context, what string) *power.Error {
	rep, e := c.get(ctx, what, c.path)
	if e != nil {
		return e
	}
	s, err := parseSystem(rep.body)
	if err != nil {
		return c.violation(what, err)
	}
	s.etag = rep.header.Get("ETag")
	c.last, c.readAt = s, time.Now()
	if pinned := c.target.Pinned; pinned != (corepower.Identity{}) && !pinned.Matches(c.identity()) {
		c.last = system{}
		return c.give(&power.Error{Kind: corepower.IdentityMismatch, Op: what + " " + c.target.Address,
			Detail: c.detail(fmt.Sprintf("the device says %q, serial %q; enrolled is %q, serial %q", s.uuid, s.serial, pinned.SystemUUID, pinned.Serial))})
	}
	return nil
}
