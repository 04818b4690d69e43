// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-ha/holdfast/agent/trust"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// open are the paths for probes, which have no certificate; they tell nothing but ready
// or not.
var open = map[string]bool{"/healthz": true, "/readyz": true}

// roles says which role a scope of the route table needs. A scope that is not here needs
// the highest one, and a test keeps it from staying so.
var roles = map[string]v1.Role{
	"": v1.Viewer, "hosts:read": v1.Viewer, "workers:read": v1.Viewer, "events:read": v1.Viewer, "settings:read": v1.Viewer,
	"hosts:write": v1.Operator, "ha:write": v1.Operator, "power:write": v1.Operator, "workers:write": v1.Operator, "commands:write": v1.Operator,
	"inventory:write": v1.Admin, "settings:write": v1.Admin, "secrets:write": v1.Admin, "hooks:write": v1.Admin, "support:read": v1.Admin, "trust:read": v1.Admin, "trust:write": v1.Admin,
}

// Role is what a caller of the route must be.
func (r *Route) Role() v1.Role {
	if role, ok := roles[r.Scope]; ok {
		return role
	}
	return v1.Admin
}

// Caller is who asks, as far as that is proven.
type Caller struct {
	Name    string // operator/ann, worker/w1, token/ci; on loopback what the client says
	Role    v1.Role
	By      string // certificate, token or loopback
	Token   string // its id
	Expires time.Time
}

type callerKey struct{}

func callerOf(r *http.Request) Caller {
	c, _ := r.Context().Value(callerKey{}).(Caller)
	return c
}

// recheck is how often a watch asks whether its caller is still admitted.
const recheck = 2 * time.Second

// admit lets operators and other workers in and notes who it is; to everybody else it
// says why not, and returns nil. What only a worker may say of a request is removed from
// that of anybody else.
func admit(o *HandlerOptions, w http.ResponseWriter, r *http.Request) *http.Request {
	if open[r.URL.Path] {
		return r
	}
	c, p := identify(o, r)
	if p != nil {
		if p.Code == v1.CodeUnauthenticated {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		writeProblem(w, p)
		return nil
	}
	if !strings.HasPrefix(c.Name, string(trust.Worker)+"/") && c.By != "loopback" {
		r.Header.Del(forwardedHeader)
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
}

// identify says who sent a request. A token goes before a certificate, so that somebody
// may do less than he could.
func identify(o *HandlerOptions, r *http.Request) (Caller, *v1.Problem) {
	if o.Trust != nil && r.TLS == nil {
		return Caller{}, v1.Problemf(v1.CodeForbidden, "plaintext is not allowed here")
	}
	if text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		token, err := trust.ParseBearer(text)
		if err == nil && o.Keeper != nil {
			if c, ok := o.Keeper.Bearer(token, time.Now()); ok {
				return c, nil
			}
		}
		return Caller{}, v1.Problemf(v1.CodeUnauthenticated, "not admitted: the token is not known, has ended or was revoked").WithHint("which there are: holdfast auth token list")
	}
	if o.Trust == nil {
		return Caller{Name: clean(r.Header.Get(v1.ActorHeader)), Role: v1.Admin, By: "loopback"}, nil
	}
	id, err := o.Trust.Client(r.TLS.PeerCertificates, trust.Operator, trust.Worker)
	if err != nil {
		o.Trust.Refused("operators", r.RemoteAddr, err)
		return Caller{}, v1.Problemf(v1.CodeForbidden, "not admitted: %v", err).
			WithHint("cacert, cert and key of the context must be those of an operator of this fleet: holdfast pki show FILE; or give a token")
	}
	c := Caller{Name: id.String(), Role: v1.Admin, By: "certificate", Expires: r.TLS.PeerCertificates[0].NotAfter}
	if id.Role == trust.Operator {
		if c.Role = v1.Role(trust.OperatorRole(r.TLS.PeerCertificates[0])); !c.Role.Valid() {
			c.Role = v1.Viewer
		}
	}
	return c, nil
}

// allowed says whether the caller may use the route now.
func (c *call) allowed() *v1.Problem {
	who, need := callerOf(c.r), c.route.Role()
	if open[c.route.Path] {
		return nil
	}
	if !who.Role.May(need) {
		c.o.Logger.Info("request refused", "who", c.who, "role", string(who.Role), "needs", string(need), "method", c.r.Method, "path", c.r.URL.Path)
		return v1.Problemf(v1.CodeForbidden, "%s %s: needs the role %s, %s has %s", c.route.Method, c.route.Path, need, who.Name, who.Role).
			WithHint("who you are to the fleet: holdfast auth whoami")
	}
	if who.By == "loopback" || strings.HasPrefix(who.Name, string(trust.Worker)+"/") {
		return nil
	}
	if !c.o.limits.allow(who.By+"/"+orName(who.Token, who.Name), c.o.Rate()) {
		return v1.Problemf(v1.CodeRateLimited, "%s asks more than %d times a second, nothing was done", who.Name, c.o.Rate()).WithHint("wait a second; the limit is the setting api.rate")
	}
	return nil
}

func orName(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// whileAdmitted is the context of a watch: it ends when its caller is not admitted any
// more. stop must be called.
func (c *call) whileAdmitted(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var done sync.WaitGroup
	if callerOf(c.r).By != "loopback" {
		done.Go(func() {
			t := time.NewTicker(recheck)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
				}
				if _, p := identify(c.o, c.r); p != nil {
					cancel(p)
					return
				}
			}
		})
	}
	return ctx, func() { cancel(nil); done.Wait() }
}

// caller names who asks, for the record: who it is proven to be; without a proof it is
// what the client says it is. The address it came from goes with it; a forwarding worker
// passes on what it noted.
func caller(r *http.Request) string {
	if who := r.Header.Get(forwardedHeader); who != "" {
		return clean(who)
	}
	name := callerOf(r).Name
	if name == "" {
		name = "anonymous"
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return name + "@" + host
}

// limits are one token bucket for each caller. Callers need a credential, so that there
// are as many as were issued at most; those at rest are forgotten.
type limits struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

const (
	maxLimits = 1000
	burst     = 4 // seconds' worth of requests that may come at once
)

// allow takes one request of a caller that may ask so many times a second.
func (l *limits) allow(who string, perSecond int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]*rate.Limiter{}
	}
	b := l.by[who]
	if b == nil {
		if len(l.by) >= maxLimits {
			for name, old := range l.by {
				if old.Tokens() >= float64(old.Burst()) {
					delete(l.by, name)
				}
			}
		}
		b = rate.NewLimiter(rate.Limit(perSecond), burst*perSecond)
		l.by[who] = b
	} else if b.Burst() != burst*perSecond {
		b.SetLimit(rate.Limit(perSecond))
		b.SetBurst(burst * perSecond)
	}
	return b.Allow()
}
