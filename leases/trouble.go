// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Trouble names what is wrong with etcd. The names are those of health warnings.
type Trouble string

// Troubles; at most one of the first four at a time.
const (
	Unreachable Trouble = "EtcdUnreachable" // no member answers
	NoLeader    Trouble = "EtcdNoLeader"    // members answer, but have no leader: no quorum, or an election
	Slow        Trouble = "EtcdSlow"        // reads or writes take so long that leases are at risk
	Auth        Trouble = "EtcdAuth"        // etcd refuses our certificate or rights, or we its certificate
	NoSpace     Trouble = "EtcdNoSpace"     // the quota is used up: etcd refuses every write
	LowSpace    Trouble = "EtcdLowSpace"    // more than half of the quota is used
)

const (
	// slowAfter is from when on reads and writes are Slow: renewals are sent every TTL/5,
	// one second at the default TTL.
	slowAfter = 500 * time.Millisecond
	// slowWindow is how long a slow write is remembered, at least.
	slowWindow = 5 * time.Second
	// statusTimeout is for asking a member how it is; it needs no quorum to answer.
	statusTimeout = time.Second
)

// Finding is one trouble as Examine found it.
type Finding struct {
	Trouble Trouble
	Detail  string
}

// Examine asks etcd how it is: one linearizable read and a member's status, and how long
// recent writes took. It writes nothing. The findings are empty when all is well; an etcd
// that does not answer before ctx ends is a finding, too.
func (c *Client) Examine(ctx context.Context) []Finding {
	redial(c.lease, c.watch, c.data)
	began := time.Now()
	err := c.plainRead(ctx)
	took := time.Since(began)
	if ctx.Err() != nil { // there must be time to find out why
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
		defer cancel()
	}
	st, serr := c.status(ctx)
	var out []Finding
	add := func(t Trouble, format string, args ...any) {
		out = append(out, Finding{t, fmt.Sprintf(format, args...)})
	}
	write := c.writes.worst(time.Now())
	refused := c.refusal.after(time.Now(), err, serr)
	switch {
	case refused != "":
		add(Auth, "%s", refused)
	case err != nil && serr != nil:
		add(Unreachable, "%s", rpctypes.ErrorDesc(serr))
	case err != nil && st.Leader == 0:
		add(NoLeader, "member %x says so", st.GetHeader().GetMemberId())
	case err != nil:
		add(Slow, "a read was not answered within %v: %s", took.Round(time.Millisecond), rpctypes.ErrorDesc(err))
	case took > slowAfter:
		add(Slow, "a read took %v", took.Round(time.Millisecond))
	case write > slowAfter:
		add(Slow, "a write took %v", write.Round(time.Millisecond))
	}
	if serr != nil {
		return out
	}
	full := false
	for _, e := range st.Errors {
		full = full || strings.Contains(e, pb.AlarmType_NOSPACE.String())
	}
	switch {
	case full:
		add(NoSpace, "%d of %d MiB are used", st.DbSize>>20, st.DbSizeQuota>>20)
	case st.DbSizeQuota > 0 && st.DbSize > st.DbSizeQuota/2:
		add(LowSpace, "%d of %d MiB are used", st.DbSize>>20, st.DbSizeQuota>>20)
	}
	return out
}

// plainRead reads below the etcd client's own retries, which hide why there is no answer.
func (c *Client) plainRead(ctx context.Context) error {
	before := c.history.revision()
	resp, err := pb.NewKVClient(c.data.ActiveConnection()).Range(ctx, &pb.RangeRequest{Key: []byte(ConfigSlotsKey()), CountOnly: true})
	if err == nil {
		c.history.answered(resp.Header, before)
	}
	return err
}

// status asks one member, another one when the first does not answer.
func (c *Client) status(ctx context.Context) (st *pb.StatusResponse, err error) {
	for range 2 {
		one, cancel := context.WithTimeout(ctx, statusTimeout/2)
		st, err = pb.NewMaintenanceClient(c.data.ActiveConnection()).Status(one, &pb.StatusRequest{})
		cancel()
		if err == nil || isAuth(err) {
			break
		}
	}
	return st, err
}

var authErrors = []error{
	rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrAuthFailed, rpctypes.ErrPermissionDenied,
	rpctypes.ErrPermissionNotGranted, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision,
}

// isAuth reports whether etcd refuses us, or we it. TLS says so only in words.
func isAuth(err error) bool {
	for _, a := range authErrors {
		if errors.Is(rpctypes.Error(err), a) {
			return true
		}
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	text := err.Error()
	return strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ") || strings.Contains(text, "authentication handshake failed")
}

// refusal remembers that etcd, or we, refused the other. A member that refuses a
// certificate may also just hang up, so that not every attempt says why it failed.
type refusal struct {
	mu   sync.Mutex
	at   time.Time
	text string
}

const refusalKept = 10 * time.Second

// after returns the refusal that explains why a read failed, if one does.
func (r *refusal) after(now time.Time, read, status error) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range []error{status, read} {
		if err != nil && isAuth(err) {
			r.at, r.text = now, rpctypes.ErrorDesc(err)
		}
	}
	if read == nil || now.Sub(r.at) > refusalKept {
		r.text = ""
	}
	return r.text
}

// worstOf remembers the longest duration of the last one to two windows.
type worstOf struct {
	mu        sync.Mutex
	since     time.Time // beginning of the present window
	now, last time.Duration
}

func (w *worstOf) took(d time.Duration, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn(at)
	w.now = max(w.now, d)
}

func (w *worstOf) worst(at time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn(at)
	return max(w.now, w.last)
}

func (w *worstOf) turn(at time.Time) {
	switch age := at.Sub(w.since); {
	case age >= 2*slowWindow:
		w.since, w.now, w.last = at, 0, 0
	case age >= slowWindow:
		w.since, w.now, w.last = at, 0, w.now
	}
}
