// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	netFnChassis = 0x00
	cmdStatus    = 0x01
)

const (
	identifyFor = 15 * time.Second
	closeWait   = time.Second            // for the answer to Close Session
	closeSpent  = 150 * time.Millisecond // the same when the device was silent before
	closeSend   = 100 * time.Millisecond // to get the packet out on a busy machine
)

var (
	errPanic = errors.New("the decoder gave up on an answer")
	errLate  = errors.New("the command's time has passed")
)

var controls = map[corepower.Verb]chassis.ChassisControl{
	corepower.HardOff: chassis.ChassisControlPowerDown,
	corepower.HardOn:  chassis.ChassisControlPowerUp,
	corepower.Cycle:   chassis.ChassisControlPowerCycle,
	corepower.Reset:   chassis.ChassisControlHardReset,
	corepower.SoftOff: chassis.ChassisControlSoftShutdown,
}

// conn is one RMCP+ session.
type conn struct {
	config
	guard  *guard
	raised bool         // privilege raised from the USER level every session starts with
	spent  *power.Error // why nothing can be asked any more

	closing sync.Once
	observe func(power.Target, Report)
}

// exchange carries one request out, and waits no longer than the limits and ctx allow. A
// non-nil result says why there is no answer.
func (c *conn) exchange(ctx context.Context, what string, limit time.Duration, r request) (*operation, *power.Error) {
	deadline := time.Now().Add(limit)
	if end, bounded := ctx.Deadline(); bounded && end.Before(deadline) {
		deadline = end
	}
	op := c.guard.begin(r, deadline)
	stop := context.AfterFunc(ctx, func() { c.guard.interrupt(op) })
	err := c.guard.exchange(op)
	stop()
	c.guard.end(op)
	if err == nil {
		return op, nil
	}
	e := c.classify(ctx, what, err, op)
	if op.stopped == nil || op.sent > 0 {
		c.spent = e
	}
	return op, e
}

// ask is an exchange inside the session; res takes the answer's body. After a packet without
// an answer the connection is spent: a late answer to it must not meet another request.
func (c *conn) ask(ctx context.Context, what string, r request, req types.Request, res types.Response) *power.Error {
	if c.spent != nil {
		return &power.Error{Kind: c.spent.Kind, Op: what + " " + c.target.Address,
			Detail: "the session was given up after an earlier error", Err: c.spent}
	}
	return c.command(ctx, what, c.limits.Answer, r, req, res)
}

func (c *conn) command(ctx context.Context, what string, limit time.Duration, r request, req types.Request, res types.Response) *power.Error {
	name := req.Command()
	r.kind, r.netFn, r.cmd, r.data = typeMessage, byte(name.NetFn), name.ID, req.Pack()
	op, e := c.exchange(ctx, what, limit, r)
	if e != nil {
		return e
	}
	if code := op.answer.code(); code != 0 {
		return c.refused(what, code, op)
	}
	if err := guarded(func() error { return res.Unpack(op.answer.body()) }); err != nil {
		return &power.Error{Kind: corepower.ProtocolViolation, Op: what + " " + c.target.Address, MayHaveRun: op.command(), Detail: "the answer is too short", Err: err}
	}
	return nil
}

// guarded keeps a panic of a decoder from ending the process.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return f()
}

// login opens the session: three exchanges of the handshake.
func (c *conn) login(ctx context.Context) *power.Error {
	for _, kind := range [...]byte{typeOpenReq, typeRAKP1, typeRAKP3} {
		if _, e := c.exchange(ctx, "open session with", c.limits.Answer, request{kind: kind}); e != nil {
			return e
		}
	}
	return nil
}

// raise asks for the configured privilege, once; reading needs no more than USER.
func (c *conn) raise(ctx context.Context) *power.Error {
	if c.raised {
		return nil
	}
	e := c.ask(ctx, "raise privilege on", request{}, &app.SetSessionPrivilegeLevelRequest{PrivilegeLevel: c.privilege}, &app.SetSessionPrivilegeLevelResponse{})
	if e != nil {
		if e.Code >= 0x80 && e.Code <= 0x82 {
			e.Kind, e.Detail = corepower.PrivilegeDenied, "the account may not have privilege "+c.params["privilege"]
		}
		return e
	}
	c.raised = true
	return nil
}

// asUser runs a read at the level the session starts with, and once more with the
// configured privilege on devices that want more for it.
func (c *conn) asUser(ctx context.Context, read func() *power.Error) *power.Error {
	e := read()
	if e != nil && e.Kind == corepower.PrivilegeDenied && !c.raised {
		if c.raise(ctx) == nil {
			e = read()
		}
	}
	return e
}

// Status reads the chassis status: bit 0 is power, bit 4 a power-control fault.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	var res chassis.GetChassisStatusResponse
	e := c.asUser(ctx, func() *power.Error {
		return c.ask(ctx, "read power status of", request{}, &chassis.GetChassisStatusRequest{}, &res)
	})
	if e != nil {
		return corepower.Reading{}, e
	}
	r := corepower.Reading{State: corepower.Off, Authentic: true, At: time.Now(), Fault: res.PowerControlFault, Raw: fmt.Sprintf("%x", res.Pack())}
	if res.PowerIsOn {
		r.State = corepower.On
	}
	return r, nil
}

// Identity reads the System GUID, printed in SMBIOS byte order as the host's own
// product UUID is. Devices without that command give the GUID of the log-in instead,
// which the password proves as well.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	var res app.GetSystemGUIDResponse
	e := c.asUser(ctx, func() *power.Error {
		return c.ask(ctx, "read identity of", request{}, &app.GetSystemGUIDRequest{}, &res)
	})
	guid := res.GUID
	switch {
	case e == nil:
	case e.Kind == corepower.Unsupported || e.Kind == corepower.PrivilegeDenied:
		guid = c.guard.guid()
	default:
		return corepower.Identity{}, e
	}
	if guid == [16]byte{} {
		return corepower.Identity{}, &power.Error{Kind: corepower.Unsupported, Op: "read identity of " + c.target.Address, Detail: "the device has no system GUID"}
	}
	return corepower.Identity{SystemUUID: formatGUID(guid)}, nil
}

func formatGUID(g [16]byte) string {
	return fmt.Sprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%x-%x",
		g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8:10], g[10:])
}

// Do sends a chassis command. D5h ("not in the present state") is AlreadyThere.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	if e := c.late(cmd); e != nil {
		return corepower.Rejected, e
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.Command)
	defer cancel()
	r := request{before: func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !cmd.NotAfter.IsZero() && !time.Now().Before(cmd.NotAfter) {
			return errLate
		}
		if cmd.Before != nil {
			return cmd.Before()
		}
		return nil
	}}
	var req types.Request
	var res types.Response
	control, isControl := controls[cmd.Verb]
	switch {
	case isControl:
		r.once = cmd.Verb != corepower.HardOff && cmd.Verb != corepower.HardOn
		req, res = &chassis.ChassisControlRequest{ChassisControl: control}, &chassis.ChassisControlResponse{}
	case cmd.Verb == corepower.Identify:
		length := cmd.For
		if length == 0 {
			length = identifyFor
		}
		seconds := byte(min(max(length/time.Second, 1), 255))
		req, res = &chassis.ChassisIdentifyRequest{IdentifyInterval: seconds}, &chassis.ChassisIdentifyResponse{}
	default:
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.target.Address), Detail: "unknown verb"}
	}
	if e := c.raise(ctx); e != nil {
		return corepower.Rejected, e
	}
	e := c.ask(ctx, "send "+string(cmd.Verb)+" to", r, req, res)
	switch {
	case e == nil:
		return corepower.Accepted, nil
	case e.Kind == corepower.InvalidState:
		return corepower.AlreadyThere, nil
	case e.MayHaveRun:
		return corepower.Indeterminate, e
	}
	return corepower.Rejected, e
}

func (c *conn) late(cmd power.Command) *power.Error {
	if cmd.NotAfter.IsZero() || time.Now().Before(cmd.NotAfter) {
		return nil
	}
	return &power.Error{Kind: corepower.DeadlinePassed, Op: "send " + string(cmd.Verb) + " to " + c.target.Address,
		Detail: "not after " + cmd.NotAfter.UTC().Format(time.RFC3339), Err: errLate}
}

// Sessions lists the device's sessions (Get Session Info). Devices that refuse to list
// them one by one give an incomplete table.
func (c *conn) Sessions(ctx context.Context) (power.SessionTable, error) {
	info := func(index byte) (res *app.GetSessionInfoResponse, e *power.Error) {
		e = c.asUser(ctx, func() *power.Error {
			res = &app.GetSessionInfoResponse{}
			return c.ask(ctx, "list sessions of", request{}, &app.GetSessionInfoRequest{SessionIndex: index}, res)
		})
		return res, e
	}
	mine, e := info(0)
	if e != nil {
		return power.SessionTable{}, e
	}
	table := power.SessionTable{Slots: int(mine.PossibleActiveSessions & 0x3f), Active: int(mine.CurrentActiveSessions & 0x3f)}
	if table.Active <= 1 {
		table.Complete = true
		return table, nil
	}
	for i := range table.Active {
		s, e := info(byte(i + 1))
		if e != nil {
			if e.Code == 0 { // no answer at all is an error; a refusal only leaves the table incomplete
				return power.SessionTable{}, e
			}
			return table, nil
		}
		if s.SessionHandle == mine.SessionHandle || s.SessionHandle == 0 {
			continue
		}
		other := power.Session{User: s.UserID, Own: s.UserID == mine.UserID}
		if a, ok := netip.AddrFromSlice(s.RemoteConsoleIPAddr); ok && !a.IsUnspecified() {
			other.Console = a
		}
		table.Others = append(table.Others, other)
	}
	table.Complete = len(table.Others) == table.Active-1
	return table, nil
}

// Close frees the session on the device and the socket. The error of the first call
// says that the device did not confirm; its slot then expires by itself.
func (c *conn) Close(ctx context.Context) (err error) {
	c.closing.Do(func() {
		if c.guard.active() {
			if e := c.release(ctx); e != nil {
				err = e
			}
		}
		_ = c.guard.Close() // a UDP socket that fails to close is gone all the same
		c.cred = power.Credential{}
		c.spent = &power.Error{Kind: corepower.Cancelled, Op: "use session with " + c.target.Address, Detail: "closed"}
		if r := c.guard.snapshot(); c.observe != nil && r.Hostile() > 0 {
			c.observe(c.target, r)
		}
	})
	return err
}

func (c *conn) release(ctx context.Context) *power.Error {
	wait := closeWait
	if c.spent != nil {
		wait = closeSpent
	}
	if end, bounded := ctx.Deadline(); ctx.Err() == nil && (!bounded || time.Until(end) >= closeSend) {
		e := c.goodbye(ctx, wait)
		if e == nil || ctx.Err() == nil {
			return e
		}
	}
	return c.goodbye(context.WithoutCancel(ctx), closeSend) // no time left: say it all the same
}

// goodbye sends Close Session and waits so long for the answer.
func (c *conn) goodbye(ctx context.Context, wait time.Duration) *power.Error {
	return c.command(ctx, "close session with", wait, request{}, &app.CloseSessionRequest{SessionID: c.guard.remoteID()}, &app.CloseSessionResponse{})
}

var (
	_ power.Conn     = (*conn)(nil)
	_ power.Sessions = (*conn)(nil)
)
