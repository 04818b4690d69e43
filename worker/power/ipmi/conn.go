// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Commands the guard is told to let out.
const (
	netFnChassis = 0x00
	cmdStatus    = 0x01
	cmdControl   = 0x02
	cmdIdentify  = 0x04

	netFnApp       = 0x06
	cmdSystemGUID  = 0x37
	cmdPrivilege   = 0x3b
	cmdClose       = 0x3c
	cmdSessionInfo = 0x3d
)

const (
	identifyFor = 15 * time.Second
	closeWait   = time.Second            // for the answer to Close Session
	closeSpent  = 150 * time.Millisecond // the same when the device was silent before
	closeSend   = 100 * time.Millisecond // to get the packet out on a busy machine
)

var (
	errPanic = errors.New("the library gave up on an answer")
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
	lib    *client.Client
	raised bool         // privilege raised from the USER level every session starts with
	spent  *power.Error // why nothing can be asked any more

	closing sync.Once
	observe func(power.Target, Report)
}

// exchange announces r, runs one request of the library, and waits no longer than the
// limits and ctx allow. A non-nil result says why there is no answer.
func (c *conn) exchange(ctx context.Context, what string, limit time.Duration, r request, f func(context.Context) error) *power.Error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	deadline, _ := bounded.Deadline()
	op := c.guard.begin(r, deadline)
	stop := context.AfterFunc(bounded, func() { c.guard.interrupt(op) })
	err := guarded(func() error { return f(bounded) })
	stop()
	final := c.guard.end(op)
	if err == nil {
		return nil
	}
	e := c.classify(ctx, what, err, final)
	_, answered := types.IsResponseError(err)
	if neverLeft := final.stopped != nil && final.sent == 0; !answered && !neverLeft {
		c.spent = e
	}
	return e
}

// guarded keeps a panic of the library on this goroutine from ending the process; those
// on its own goroutines cannot happen, since the guard admits only sound answers.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return f()
}

// ask is an exchange inside the session. After a packet without an answer the connection
// is spent: the library would repeat sequence numbers, and a late answer is a stranger's.
func (c *conn) ask(ctx context.Context, what string, r request, f func(context.Context) error) *power.Error {
	if c.spent != nil {
		return &power.Error{Kind: c.spent.Kind, Op: what + " " + c.target.Address,
			Detail: "the session was given up after an earlier error", Err: c.spent}
	}
	return c.exchange(ctx, what, c.limits.Answer, r, f)
}

// login opens the session: three exchanges of the handshake.
func (c *conn) login(ctx context.Context) *power.Error {
	const what = "open session with"
	if e := c.exchange(ctx, what, c.limits.Answer, request{kind: typeOpenReq}, func(ctx context.Context) error {
		_, err := c.lib.OpenSession(ctx)
		return err
	}); e != nil {
		return e
	}
	if e := c.exchange(ctx, what, c.limits.Answer, request{kind: typeRAKP1}, func(ctx context.Context) error {
		_, err := c.lib.RAKPMessage1(ctx)
		return err
	}); e != nil {
		return e
	}
	return c.exchange(ctx, what, c.limits.Answer, request{kind: typeRAKP3}, func(ctx context.Context) error {
		_, err := c.lib.RAKPMessage3(ctx)
		return err
	})
}

// raise asks for the configured privilege, once; reading needs no more than USER.
func (c *conn) raise(ctx context.Context) *power.Error {
	if c.raised {
		return nil
	}
	e := c.ask(ctx, "raise privilege on", request{netFn: netFnApp, cmd: cmdPrivilege, data: []byte{byte(c.privilege)}}, func(ctx context.Context) error {
		_, err := c.lib.SetSessionPrivilegeLevel(ctx, c.privilege)
		return err
	})
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
	var res *chassis.GetChassisStatusResponse
	e := c.asUser(ctx, func() *power.Error {
		return c.ask(ctx, "read power status of", request{netFn: netFnChassis, cmd: cmdStatus}, func(ctx context.Context) (err error) {
			res, err = c.lib.GetChassisStatus(ctx)
			return err
		})
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
	var guid [16]byte
	e := c.asUser(ctx, func() *power.Error {
		return c.ask(ctx, "read identity of", request{netFn: netFnApp, cmd: cmdSystemGUID}, func(ctx context.Context) error {
			res, err := c.lib.GetSystemGUID(ctx)
			if err == nil {
				guid = res.GUID
			}
			return err
		})
	})
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
	r := request{netFn: netFnChassis, cmd: cmdControl, before: func() error {
		if !cmd.NotAfter.IsZero() && !time.Now().Before(cmd.NotAfter) {
			return errLate
		}
		if cmd.Before != nil {
			return cmd.Before()
		}
		return nil
	}}
	var send func(context.Context) error
	control, isControl := controls[cmd.Verb]
	switch {
	case isControl:
		r.data = []byte{byte(control)}
		r.once = cmd.Verb != corepower.HardOff && cmd.Verb != corepower.HardOn
		send = func(ctx context.Context) error {
			_, err := c.lib.ChassisControl(ctx, control)
			return err
		}
	case cmd.Verb == corepower.Identify:
		length := cmd.For
		if length == 0 {
			length = identifyFor
		}
		seconds := byte(min(max(length/time.Second, 1), 255))
		r.cmd, r.data = cmdIdentify, []byte{seconds, 0}
		send = func(ctx context.Context) error {
			_, err := c.lib.ChassisIdentify(ctx, seconds, false)
			return err
		}
	default:
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.target.Address), Detail: "unknown verb"}
	}
	if e := c.raise(ctx); e != nil {
		return corepower.Rejected, e
	}
	e := c.ask(ctx, "send "+string(cmd.Verb)+" to", r, send)
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
			return c.ask(ctx, "list sessions of", request{netFn: netFnApp, cmd: cmdSessionInfo, data: []byte{index}}, func(ctx context.Context) (err error) {
				res, err = c.lib.GetSessionInfo(ctx, &app.GetSessionInfoRequest{SessionIndex: index})
				return err
			})
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
	id := c.guard.remoteID()
	return c.exchange(ctx, "close session with", wait, request{netFn: netFnApp, cmd: cmdClose, data: le32(id)}, func(ctx context.Context) error {
		_, err := c.lib.CloseSession(ctx, &app.CloseSessionRequest{SessionID: id})
		return err
	})
}

var (
	_ power.Conn     = (*conn)(nil)
	_ power.Sessions = (*conn)(nil)
)
