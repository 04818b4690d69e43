// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	maxBody      = 1 << 20
	callTimeout  = 10 * time.Second
	orderTimeout = 65 * time.Second // a power test talks to each device in turn
	defaultLimit = 5000
	maxLimit     = 10000
)

// HandlerOptions are what the handler needs beside the backend. Only Metrics has no
// useful default: without it /metrics is not found.
type HandlerOptions struct {
	Metrics http.Handler
	Logger  *slog.Logger
	Version string
	Forward http.RoundTripper // to other workers; default: a plaintext pool of its own
	Trust   *trust.Source     // whose certificates are admitted; nil: everybody, as on loopback
	Keeper  Keeper            // nil: there are no tokens and no authorities
	Support Supporter         // nil: nothing for a support bundle
	Hooks   Hooks             // nil: nobody is told of events
	Rate    func() int        // requests a second that one caller may send; default: 200
	Repeats Repeats           // nil: an Idempotency-Key is not looked at

	limits  *limits
	openAPI func() []byte
}

// NewHandler serves Routes from a backend. Watches end when the request's context ends:
// give the server a BaseContext that ends at shutdown.
func NewHandler(b Backend, o HandlerOptions) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rate == nil {
		o.Rate = func() int { return 200 }
	}
	o.limits = &limits{}
	o.openAPI = sync.OnceValue(OpenAPI)
	if o.Forward == nil {
		o.Forward = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		}
	}
	byPath := map[string][]*Route{}
	for i := range Routes {
		base, _ := splitVerb(Routes[i].Path)
		byPath[base] = append(byPath[base], &Routes[i])
	}
	mux := http.NewServeMux()
	for base, rows := range byPath {
		mux.HandleFunc(base, func(w http.ResponseWriter, r *http.Request) { serve(b, &o, rows, w, r) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, v1.Problemf(v1.CodeNotFound, "path %q: no such resource", r.URL.Path).WithHint("all paths: docs/api.md"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer recovered(&o, w, r)
		if r = admit(&o, w, r); r != nil {
			mux.ServeHTTP(w, r)
		}
	})
}

// splitVerb cuts the verb off a route's path: "/v1/p/{path...}:ha" is "/v1/p/{path...}", "ha".
func splitVerb(path string) (base, verb string) {
	if i := strings.Index(path, "}:"); i >= 0 {
		return path[:i+1], path[i+2:]
	}
	return path, ""
}

// recovered turns a panic into a Problem and a log line.
func recovered(o *HandlerOptions, w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { // how net/http itself ends a broken answer
		panic(v)
	}
	o.Logger.Error("request panicked", "method", r.Method, "path", r.URL.Path, "cause", fmt.Sprint(v), "stack", string(debug.Stack()))
	writeProblem(w, v1.Problemf(v1.CodeInternal, "%s %s: internal error, see the log of this worker", r.Method, r.URL.Path))
}

// call is one request on its way through its route.
type call struct {
	b     Backend
	o     *HandlerOptions
	w     http.ResponseWriter
	r     *http.Request
	route *Route
	who   string
	path  string // of {path...}, without the verb
	query url.Values
	watch bool
	dry   bool
	want  int64 // revision that the request says it must be at; -1: none
}

// serve picks the row for method and verb, checks what every row checks, and runs it.
func serve(b Backend, o *HandlerOptions, rows []*Route, w http.ResponseWriter, r *http.Request) {
	c := &call{b: b, o: o, w: w, path: r.PathValue("path"), query: r.URL.Query(), want: -1}
	verb := ""
	for _, row := range rows {
		if _, v := splitVerb(row.Path); v != "" && strings.HasSuffix(c.path, ":"+v) {
			verb, c.path = v, strings.TrimSuffix(c.path, ":"+v)
			break
		}
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allowed []string
	for _, row := range rows {
		if _, v := splitVerb(row.Path); v != verb {
			continue
		}
		allowed = append(allowed, row.Method)
		if row.Method == method {
			c.route = row
		}
	}
	if c.route == nil {
		sort.Strings(allowed)
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, v1.Problemf(v1.CodeMethod, "method %s: not for this path, allowed are %s", r.Method, strings.Join(allowed, ", ")))
		return
	}
	ctx := r.Context()
	c.r, c.who = r, caller(r)
	if p := c.allowed(); p != nil {
		writeProblem(w, p)
		return
	}
	if err := c.check(); err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	if c.watch {
		var stop func()
		ctx, stop = c.whileAdmitted(ctx)
		defer stop()
	} else {
		d := callTimeout
		if strings.HasSuffix(c.route.Path, "/orders") || strings.HasSuffix(c.route.Path, "/secret") || strings.HasSuffix(c.route.Path, "/test") || strings.HasSuffix(c.route.Path, "/support") {
			d = orderTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if c.dry {
		ctx, _ = WithTrial(ctx)
	}
	c.r = r.WithContext(ctx)
	c.r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := c.once(w); err != nil {
		c.failed(w, err)
	}
}

// failed answers an error of a handler.
func (c *call) failed(w http.ResponseWriter, err error) {
	p := c.conditional(problemOf(err))
	if p.Code == v1.CodeInternal {
		c.o.Logger.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "who", c.who, "cause", err)
	}
	writeProblem(w, p)
}

// check refuses parameters that the route does not know: a misspelt filter or dryRun, or a
// condition that nobody would look at, must not be overlooked.
func (c *call) check() error {
	params := c.route.Params()
	for _, p := range slices.Concat(matchParams, []Param{keyParam}) {
		if c.route.Changes() && c.r.Header.Get(p.Name) != "" && !c.route.Knows(p.Name) {
			return v1.BadField(p.Name, "not a header of %s %s", c.route.Method, c.route.Path)
		}
	}
	for name, values := range c.query {
		var known []string
		ok, many := false, false
		for _, p := range params {
			if p.Header {
				continue
			}
			known = append(known, p.Name)
			if p.Name == name {
				ok, many = true, p.Many
			}
		}
		if !ok {
			if len(known) == 0 {
				known = []string{"none"}
			}
			return v1.BadField(name, "not a parameter of %s %s, allowed are %s", c.route.Method, c.route.Path, strings.Join(known, ", "))
		}
		if len(values) > 1 && !many {
			return v1.BadField(name, "given %d times, allowed is once", len(values))
		}
	}
	var err error
	if c.dry, err = c.flag("dryRun"); err == nil {
		c.watch, err = c.flag("watch")
	}
	return err
}

// clean keeps a name from the outside printable and short.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "")
	}
	return s
}

func (c *call) ctx() context.Context { return c.r.Context() }
func (c *call) id() string           { return c.r.PathValue("id") }

// reply answers 200 with a value.
func (c *call) reply(v any) error {
	writeJSON(c.w, http.StatusOK, "application/json", v)
	return nil
}

// replyAt answers with the revision as ETag.
func (c *call) replyAt(revision int64, v any) error {
	c.w.Header().Set("ETag", etag(revision))
	return c.reply(v)
}

// etag is the strong ETag of a revision of etcd.
func etag(revision int64) string { return fmt.Sprintf(`"%d"`, revision) }

// body decodes the request into v. Unknown fields and trailing data are errors.
func (c *call) body(v any) error {
	b, err := io.ReadAll(c.r.Body)
	if err != nil {
		return fmt.Errorf("read request body: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return v1.BadField("body", "empty, allowed is a JSON %T", v)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v1.BadField("body", "more than one JSON value, allowed is one")
	}
	return nil
}

// badJSON words a decoding error for the one who sent it.
func badJSON(err error) error {
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) && typ.Field != "" {
		return v1.BadField(typ.Field, "%s, allowed is %s", typ.Value, typ.Type)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		field, _ := strconv.Unquote(name)
		return v1.BadField(field, "unknown field")
	}
	return v1.BadField("body", "not the JSON expected: %v", err)
}

// ifRevision reads If-Match and If-None-Match: -1 whatever is there, 0 must not exist.
func (c *call) ifRevision() (revision int64, err error) {
	defer func() {
		if err == nil {
			c.want = revision
		}
	}()
	match, none := c.r.Header.Get("If-Match"), c.r.Header.Get("If-None-Match")
	switch {
	case match != "" && none != "":
		return 0, v1.BadField("If-None-Match", "given together with If-Match, allowed is one of them")
	case none == "*":
		return 0, nil
	case none != "":
		return 0, v1.BadField("If-None-Match", "%q, allowed is *", none)
	case match == "" || match == "*":
		return -1, nil
	}
	n, err := strconv.ParseInt(strings.Trim(match, `"`), 10, 64)
	if err != nil || n < 1 {
		return 0, v1.BadField("If-Match", "%q, allowed is an ETag of this resource or *", match)
	}
	return n, nil
}

// flag reads a boolean parameter; missing is false.
func (c *call) flag(name string) (bool, error) {
	s := c.query.Get(name)
	if s == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(s)
	if err != nil {
		return false, v1.BadField(name, "%q, allowed are true and false", s)
	}
	return on, nil
}

// limit reads the page size.
func (c *call) limit() (int, error) {
	s := c.query.Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, v1.BadField("limit", "%q, allowed are 1 to %d", s, maxLimit)
	}
	return n, nil
}

// page sorts items by key and cuts the page that the request asks for. Keys must be
// unique; the cursor is the last key, so that a page never depends on one before.
func page[T any](c *call, items []T, key func(T) string, down bool) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	before := func(a, b string) bool { return a != b && (a < b) != down }
	sort.SliceStable(items, func(i, j int) bool { return before(key(items[i]), key(items[j])) })
	if after := c.query.Get("after"); after != "" {
		last, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil {
			return v1.BadField("after", "%q, allowed is the field next of the page before", after)
		}
		items = items[sort.Search(len(items), func(i int) bool { return before(string(last), key(items[i])) }):]
	}
	out := v1.List[T]{Items: items}
	if len(items) > limit {
		out.Items = items[:limit]
		out.Next = base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1])))
	}
	if out.Items == nil {
		out.Items = []T{}
	}
	return c.reply(out)
}

// pageAsIs cuts the page that the request asks for and leaves the order to the backend. The
// cursor is the name of the last item: when that has gone meanwhile there is no next page,
// and the answer says so.
func pageAsIs[T any](c *call, items []T, name func(T) string) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	if after := c.query.Get("after"); after != "" {
		last, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil {
			return v1.BadField("after", "%q, allowed is the field next of the page before", after)
		}
		i := slices.IndexFunc(items, func(x T) bool { return name(x) == string(last) })
		if i < 0 {
			return v1.Problemf(v1.CodeCompacted, "after: %s, with which the page before ended, is gone", last).WithHint("read the list again from its beginning")
		}
		items = items[i+1:]
	}
	out := v1.List[T]{Items: items}
	if len(items) > limit {
		out.Items = items[:limit]
		out.Next = base64.RawURLEncoding.EncodeToString([]byte(name(items[limit-1])))
	}
	if out.Items == nil {
		out.Items = []T{}
	}
	return c.reply(out)
}
