// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// byID answers with what the backend has of the id in the route.
func byID[T any](get func(Backend, context.Context, string) (T, error)) func(*call) error {
	return lookUp((*call).id, get)
}

// byPath answers with what the backend has of the path in the route.
func byPath[T any](get func(Backend, context.Context, string) (T, error)) func(*call) error {
	return lookUp(func(c *call) string { return c.path }, get)
}

func lookUp[T any](name func(*call) string, get func(Backend, context.Context, string) (T, error)) func(*call) error {
	return func(c *call) error {
		x, err := get(c.b, c.ctx(), name(c))
		if err != nil {
			return err
		}
		return c.reply(x)
	}
}

func listPartitions(c *call) error {
	ps, err := c.b.Partitions(c.ctx())
	if err != nil {
		return err
	}
	return page(c, ps, func(p v1.Partition) string { return p.Spec.Path }, false)
}

func getPartition(c *call) error {
	p, err := c.b.Partition(c.ctx(), c.path)
	if err != nil {
		return err
	}
	return c.replyAt(p.Revision, p)
}

func putPartition(c *call) error {
	var spec v1.PartitionSpec
	if err := c.body(&spec); err != nil {
		return err
	}
	if spec.Path == "" {
		spec.Path = c.path
	}
	if spec.Path != c.path {
		return v1.BadField("path", "%q, but the address says %q", spec.Path, c.path)
	}
	if err := version(&spec.V); err != nil {
		return err
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	p, err := c.b.PutPartition(c.ctx(), c.who, spec, rev)
	if err != nil {
		return err
	}
	return c.replyAt(p.Revision, p)
}

func setPartition(what string) func(*call) error {
	return func(c *call) error {
		s, err := c.readSwitch()
		if err != nil {
			return err
		}
		p, err := c.b.SetPartition(c.ctx(), c.who, c.path, what, s)
		if err != nil {
			return err
		}
		return c.replyAt(p.Revision, p)
	}
}

func listIncidents(c *call) error {
	is, err := c.b.Incidents(c.ctx(), c.query.Get("host"))
	if err != nil {
		return err
	}
	return page(c, is, func(i v1.Incident) string { return sortable(i.Opened) + "\x00" + i.ID }, true)
}

func explainIncident(c *call) error {
	i, err := c.b.Incident(c.ctx(), c.id())
	if err != nil {
		return err
	}
	if i.Ended.IsZero() { // what comes next is known best by the owner of the host
		if done, err := c.askOwner(i.Host, nil, readForward, true); done || err != nil {
			return err
		}
	}
	x, err := c.b.ExplainIncident(c.ctx(), c.id())
	if err != nil {
		return err
	}
	return c.reply(x)
}

func listAreas(c *call) error {
	as, err := c.b.Areas(c.ctx())
	if err != nil {
		return err
	}
	return page(c, as, func(a v1.Area) string { return a.Area }, false)
}

func listBudgets(c *call) error {
	at := c.query.Get("scope")
	if at != "" {
		var err error
		if at, err = budgetScope(at); err != nil {
			return err
		}
	}
	bs, err := c.b.Budgets(c.ctx(), at)
	if err != nil {
		return err
	}
	return page(c, bs, func(b v1.Budget) string { return b.Scope }, false)
}

// budgetScope is a scope that has a budget: all but global.
func budgetScope(s string) (string, error) {
	at, err := scope(s)
	if err == nil && at == "global" {
		err = v1.BadField("scope", "%q, allowed are zone/<zone>, pod/<zone>/<pod>, cluster/<zone>/<pod>/<cluster>, host/<host>", s)
	}
	return at, err
}

// changeBudget resets a budget or grants it more.
func changeBudget(grant bool) func(*call) error {
	return func(c *call) error {
		var r v1.BudgetRequest
		if err := c.body(&r); err != nil {
			return err
		}
		at, err := budgetScope(c.path)
		if err != nil {
			return err
		}
		d, durErr := time.ParseDuration(r.For)
		switch {
		case strings.TrimSpace(r.Reason) == "":
			return v1.BadField("reason", "empty: whoever reads the log wants to know why")
		case !grant && (r.Extra != 0 || r.For != ""):
			return v1.BadField("extra", "given with a reset, allowed with a grant only")
		case grant && (r.Extra < 1 || r.Extra > 1000):
			return v1.BadField("extra", "%d, allowed are 1 to 1000", r.Extra)
		case grant && (durErr != nil || d <= 0 || d > 720*time.Hour):
			return v1.BadField("for", "%q, allowed are durations up to 720h such as 2h or 30m", r.For)
		}
		b, err := c.b.ChangeBudget(c.ctx(), c.who, at, grant, r)
		if err != nil {
			return err
		}
		return c.reply(b)
	}
}

func (c *call) eventFilter() (EventFilter, error) {
	f := EventFilter{
		Host: c.query.Get("host"), Partition: strings.Trim(c.query.Get("partition"), "/"),
		Type: c.query.Get("type"), Severity: c.query.Get("severity"),
	}
	if f.Severity != "" && !slices.Contains(v1.Severities, f.Severity) {
		return f, v1.BadField("severity", "%q, allowed are %s", f.Severity, strings.Join(v1.Severities, ", "))
	}
	if s := c.query.Get("since"); s != "" {
		var err error
		if f.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			d, derr := time.ParseDuration(s)
			if derr != nil || d < 0 {
				return f, v1.BadField("since", "%q, allowed is an RFC 3339 time or a duration such as 2h", s)
			}
			f.Since = time.Now().Add(-d)
		}
	}
	var err error
	if f.After, err = revision("after", c.query.Get("after")); err != nil {
		return f, err
	}
	if c.watch {
		last, err := revision("Last-Event-ID", c.r.Header.Get("Last-Event-ID"))
		if err != nil {
			return f, err
		}
		// One transaction may write several events and the connection may have died
		// between them: that revision is sent again, clients tell repeats by id.
		f.After = max(f.After, last-1)
	}
	return f, nil
}

func revision(field, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, v1.BadField(field, "%q, allowed is a revision: a whole number from 0", s)
	}
	return n, nil
}

func listEvents(c *call) error {
	f, err := c.eventFilter()
	if err != nil {
		return err
	}
	if f.After > 0 {
		if err := c.b.EventsKept(c.ctx(), f.After); err != nil {
			return err
		}
	}
	if c.watch {
		return c.stream("event", func(send func(string, any) error) error {
			return c.b.WatchEvents(c.ctx(), f, func(e v1.Event) error { return send(strconv.FormatInt(e.Revision, 10), e) })
		})
	}
	limit, err := c.limit()
	if err != nil {
		return err
	}
	es, err := c.b.Events(c.ctx(), f)
	if err != nil {
		return err
	}
	out := v1.List[v1.Event]{Items: es}
	if len(es) > limit {
		// The cursor is a revision: a page ends with all events of its last one.
		for limit < len(es) && es[limit].Revision == es[limit-1].Revision {
			limit++
		}
		if limit < len(es) {
			out.Items, out.Next = es[:limit], strconv.FormatInt(es[limit-1].Revision, 10)
		}
	}
	if out.Items == nil {
		out.Items = []v1.Event{}
	}
	return c.reply(out)
}

// scope checks the parameter or field scope; empty is global.
func scope(s string) (string, error) {
	if s == "" || s == "global" {
		return "global", nil
	}
	depth := map[string]int{"zone": 1, "pod": 2, "cluster": 3, "host": 1}
	kind, path, _ := strings.Cut(s, "/")
	parts := strings.Split(path, "/")
	if n, ok := depth[kind]; !ok || len(parts) != n || slices.Contains(parts, "") {
		return "", v1.BadField("scope", "%q, allowed are global, zone/<zone>, pod/<zone>/<pod>, cluster/<zone>/<pod>/<cluster>, host/<host>", s)
	}
	return s, nil
}

func listSettings(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	ss, err := c.b.Settings(c.ctx(), at)
	if err != nil {
		return err
	}
	return pageAsIs(c, ss, func(s v1.Setting) string { return s.Name })
}

func getSetting(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	ss, err := c.b.Settings(c.ctx(), at)
	if err != nil {
		return err
	}
	name := c.r.PathValue("name")
	i := slices.IndexFunc(ss, func(s v1.Setting) bool { return s.Name == name })
	if i < 0 {
		return v1.Problemf(v1.CodeNotFound, "setting %q: there is none of that name", name).WithHint("all of them: holdfast settings list")
	}
	return c.setting(ss[i])
}

// setting answers one; its ETag is that of the value at the very scope, if there is one.
func (c *call) setting(s v1.Setting) error {
	if s.Revision > 0 {
		return c.replyAt(s.Revision, s)
	}
	return c.reply(s)
}

func putSetting(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	var s v1.SettingRequest
	if err := c.body(&s); err != nil {
		return err
	}
	var expires time.Time
	if s.For != "" {
		d, err := time.ParseDuration(s.For)
		if err != nil || d <= 0 {
			return v1.BadField("for", "%q, allowed is a duration above zero such as 2h", s.For)
		}
		expires = time.Now().UTC().Add(d)
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	out, err := c.b.PutSetting(c.ctx(), c.who, at, c.r.PathValue("name"), s.Value, s.Reason, expires, rev)
	if err != nil {
		return err
	}
	return c.setting(out)
}

func deleteSetting(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	out, err := c.b.DeleteSetting(c.ctx(), c.who, at, c.r.PathValue("name"), c.query.Get("reason"), rev)
	if err != nil {
		return err
	}
	return c.reply(out)
}

func arm(on bool) func(*call) error {
	return func(c *call) error {
		var a v1.ArmRequest
		if err := c.body(&a); err != nil {
			return err
		}
		at, err := scope(a.Scope)
		if err != nil {
			return err
		}
		if a.For != "" {
			if d, err := time.ParseDuration(a.For); on || err != nil || d <= 0 {
				return v1.BadField("for", "%q, allowed is a duration above zero such as 2h, for disarm only", a.For)
			}
		}
		s, err := c.b.Arm(c.ctx(), c.who, at, v1.Switch{On: on, For: a.For, Reason: a.Reason})
		if err != nil {
			return err
		}
		return c.reply(s)
	}
}

func allocate(c *call) error {
	ha, err := c.flag("ha")
	if err != nil {
		return err
	}
	cs, err := c.b.Allocate(c.ctx(), strings.Trim(c.query.Get("partition"), "/"), ha)
	if err != nil {
		return err
	}
	return pageAsIs(c, cs, func(x v1.Candidate) string { return x.Host })
}

func getVersion(c *call) error {
	return c.reply(v1.Version{Version: c.o.Version, API: "v1", Go: runtime.Version()})
}

func getHealth(c *call) error {
	h := v1.Health{Ready: true}
	if err := c.b.Ready(); err != nil {
		h.Ready, h.Reason = false, err.Error()
	}
	for _, w := range c.b.Health() {
		h.Warnings = append(h.Warnings, v1.Warning(w))
	}
	return c.reply(h)
}

func healthz(c *call) error { return c.text(http.StatusOK, "ok") }

func readyz(c *call) error {
	if err := c.b.Ready(); err != nil {
		return c.text(http.StatusServiceUnavailable, "not ready: "+err.Error())
	}
	return c.text(http.StatusOK, "ready")
}

func (c *call) text(status int, s string) error {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = io.WriteString(c.w, s+"\n") // the caller has gone: nobody to tell
	return nil
}

func metrics(c *call) error {
	if c.o.Metrics == nil {
		return v1.Problemf(v1.CodeNotFound, "metrics: this worker keeps none")
	}
	c.o.Metrics.ServeHTTP(c.w, c.r)
	return nil
}
