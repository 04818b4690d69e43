// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	maxSystems = 32 // of one service; a chassis of blades has fewer
	finding    = "find the system of"
)

// transport lets gofish read over our connection. It sends GETs only, keeps the first
// failure, and after one sends nothing more.
type transport struct {
	c       *conn
	ctx     context.Context
	failed  *power.Error
	systems string // link of the systems, from the service root
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.failed != nil {
		return nil, t.failed
	}
	path, err := t.c.local(req.URL.Path)
	if err != nil || req.Method != http.MethodGet {
		t.failed = t.c.violation(finding, errors.New("a link of the service leads elsewhere"))
		return nil, t.failed
	}
	rep, e := t.c.get(t.ctx, finding, path)
	if e != nil {
		t.failed = e
		return nil, e
	}
	if t.systems == "" {
		if t.systems, err = systemsLink(rep.body); err != nil {
			t.failed = t.c.violation(finding, err)
			return nil, t.failed
		}
	}
	return &http.Response{
		Status: http.StatusText(rep.status), StatusCode: rep.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rep.header, Body: io.NopCloser(bytes.NewReader(rep.body)), ContentLength: int64(len(rep.body)), Request: req,
	}, nil
}

func systemsLink(root []byte) (string, error) {
	top, err := object(root)
	if err != nil {
		return "", err
	}
	if top["Systems"] == nil {
		return "", errors.New("the service has no systems")
	}
	link, err := object(top["Systems"])
	if err != nil {
		return "", err
	}
	return text(link, "@odata.id")
}

// discover finds the system's path: the only one, or the one with the pinned UUID.
func (c *conn) discover(ctx context.Context) (string, *power.Error) {
	t := &transport{c: c, ctx: ctx}
	links, err := guarded(func() ([]string, error) { return t.members(ctx) })
	switch {
	case t.failed != nil:
		return "", t.failed
	case err != nil:
		return "", c.violation(finding, err)
	case len(links) == 0 || len(links) > maxSystems:
		return "", c.violation(finding, fmt.Errorf("the service names %d systems", len(links)))
	}
	chosen := links[0]
	if len(links) > 1 {
		if chosen, err = guarded(func() (string, error) { return t.choose(links) }); t.failed != nil {
			return "", t.failed
		} else if err != nil {
			return "", c.violation(finding, err)
		}
	}
	if chosen == "" {
		return "", power.BadConfig(finding+" "+c.target.Address, "parameter \"system\": is not set, and nothing pinned tells which of these is meant: %s", c.detail(strings.Join(links, ", ")))
	}
	path, err := c.local(chosen)
	if err != nil {
		return "", c.violation(finding, fmt.Errorf("link of the system %q: %w", chosen, err))
	}
	return path, nil
}

// members reads service root and collection with gofish, which knows how services differ.
// Its functions that read members at once do so on goroutines of their own, where no
// recover reaches: they are not used.
func (t *transport) members(ctx context.Context) ([]string, error) {
	client, err := gofish.ConnectContext(ctx, gofish.ClientConfig{
		Endpoint: t.c.scheme() + "://" + t.c.address, ReuseConnections: true,
		HTTPClient: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	})
	if err != nil {
		return nil, err
	}
	all, err := schemas.GetCollection(client, t.systems)
	if err != nil {
		return nil, err
	}
	return all.ItemLinks, nil
}

// choose finds the system with the pinned UUID; "" when none is pinned or has it.
func (t *transport) choose(links []string) (string, error) {
	pinned := t.c.target.Pinned.SystemUUID
	if pinned == "" {
		return "", nil
	}
	for _, l := range links {
		path, err := t.c.local(l)
		if err != nil {
			return "", err
		}
		rep, e := t.c.get(t.ctx, finding, path)
		if e != nil {
			t.failed = e
			return "", e
		}
		if s, err := parseSystem(rep.body); err == nil && s.uuid == pinned {
			return l, nil
		}
	}
	t.failed = &power.Error{Kind: corepower.IdentityMismatch, Op: finding + " " + t.c.target.Address, Detail: t.c.detail(fmt.Sprintf("none of %d systems has the enrolled UUID %s", len(links), pinned))}
	return "", t.failed
}

// guarded keeps a panic of the library from ending the process.
func guarded[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the library gave up on an answer")
		}
	}()
	return f()
}
