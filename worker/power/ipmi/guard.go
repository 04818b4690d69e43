// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	// maxDatagram is well above any answer to our requests; larger ones are dropped.
	maxDatagram = 1024
	// grace is how long an unproven refusal waits for a proven answer.
	grace = 200 * time.Millisecond
)

var (
	errNotAnnounced = errors.New("guard: packet was not announced")
	errBelieved     = errors.New("guard: the device refused")
	errStopped      = errors.New("guard: packet was stopped")
)

// step is how far the session setup is; it advances only on accepted answers.
type step uint8

const (
	stepIdle step = iota
	stepOpened
	stepProven // RAKP 2 accepted: the BMC knows the password
	stepActive
)

// request is what the driver has announced and thereby may leave.
type request struct {
	kind       byte // payload type
	netFn, cmd byte
	data       []byte
	once       bool         // not idempotent: swallow repetitions
	before     func() error // asked before each packet
}

// fault is a refusal by the device with its meaning.
type fault struct {
	kind   corepower.Kind
	code   int
	detail string
	suite  bool // this cipher suite will not do, another may
}

// operation is one announced exchange.
type operation struct {
	request
	deadline time.Time
	over     bool
	attempts int // writes by the library
	sent     int // packets that left
	drops    uint64
	sentMsg  message // the message awaiting its answer
	held     *fault
	kept     []byte    // proven RAKP 2, while another may follow (see settle)
	until    time.Time // when held is believed, or kept delivered
	fault    *fault
	stopped  error // what before said
}

// guard is the net.Conn below the library (see doc.go). Its methods may be called from
// a goroutine of the library that outlives an operation: they then do nothing.
type guard struct {
	sock    net.Conn
	retries int
	packet  time.Duration // after which the library repeats

	mu       sync.Mutex
	s        session
	step     step
	tag      byte
	check    []byte // RAKP 4 check value to expect
	op       *operation
	readTill time.Time // the library's read deadline
	heard    bool      // any genuine-looking answer so far
	report   Report

	otherSuite bool   // the device refused this suite
	unwanted   uint32 // session id of an answer with weaker algorithms, to give back
	repeated   bool   // RAKP 1 left more than once
	badProof   bool   // RAKP 2 proved another password
}

func newGuard(sock net.Conn, su suite, user, password string, limits power.Limits) *guard {
	g := &guard{sock: sock, retries: limits.Retries, packet: limits.Packet, s: session{suite: su, user: user}}
	copy(g.s.kuid[:], password)
	// The library's session id is a constant and its tags are zero. Random ones make a
	// stranger guess 40 bits and keep late answers of older attempts apart.
	var r [5]byte
	_, _ = rand.Read(r[:])
	g.s.ours, g.tag = binary.LittleEndian.Uint32(r[:])|1, r[4]
	return g
}

// begin announces a request; until end only it may leave, and only its answer enters.
func (g *guard) begin(r request, deadline time.Time) *operation {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.op = &operation{request: r, deadline: deadline}
	return g.op
}

// interrupt ends an operation from outside: a blocked Read returns, nothing leaves any more.
func (g *guard) interrupt(op *operation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	op.over = true
	if g.op == op {
		_ = g.sock.SetReadDeadline(time.Unix(1, 0))
	}
}

// end closes an operation and returns a copy with its final counts: a goroutine of the
// library or a context may still touch the original.
func (g *guard) end(op *operation) *operation {
	g.interrupt(op)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.op = nil
	if op.fault == nil {
		op.fault = op.held // refused, and time ran out before the grace did
	}
	g.otherSuite = g.otherSuite || op.fault != nil && op.fault.suite
	g.badProof = g.badProof || op.fault != nil && op.fault.kind == corepower.AuthFailed
	final := *op
	return &final
}

func (g *guard) active() bool          { g.mu.Lock(); defer g.mu.Unlock(); return g.step == stepActive }
func (g *guard) hasHeard() bool        { g.mu.Lock(); defer g.mu.Unlock(); return g.heard }
func (g *guard) wantsOtherSuite() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.otherSuite }
func (g *guard) remoteID() uint32      { g.mu.Lock(); defer g.mu.Unlock(); return g.s.bmc }
func (g *guard) guid() [16]byte        { g.mu.Lock(); defer g.mu.Unlock(); return g.s.guid }
func (g *guard) snapshot() Report      { g.mu.Lock(); defer g.mu.Unlock(); return g.report }

// Write lets the announced request out and nothing else.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	op := g.op
	if op == nil || op.over {
		g.mu.Unlock()
		return 0, errNotAnnounced
	}
	out, ok := g.outgoing(op, p)
	if ok {
		op.attempts++
	}
	swallow := op.once && op.sent > 0
	g.mu.Unlock()
	if !ok {
		return 0, errNotAnnounced
	}
	if swallow {
		return len(p), nil
	}
	if op.before != nil {
		if err := op.before(); err != nil {
			g.mu.Lock()
			op.stopped = err
			g.mu.Unlock()
			return 0, errStopped
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if op.over { // ended while before was asked
		return 0, errNotAnnounced
	}
	_ = g.sock.SetWriteDeadline(op.deadline)
	if _, err := g.sock.Write(out); err != nil {
		return 0, err
	}
	op.sent++
	g.report.Sent++
	g.repeated = g.repeated || op.kind == typeRAKP1 && op.sent > 1
	return len(p), nil
}

// outgoing checks p against the announcement, notes what the answer must match and
// returns the datagram to send.
func (g *guard) outgoing(op *operation, p []byte) ([]byte, bool) {
	pk, ok := parse(p)
	if !ok || pk.kind&0x3f != op.kind {
		return nil, false
	}
	if op.kind != typeMessage {
		out := bytes.Clone(p)
		return out, g.outgoingHandshake(op.kind, out[rmcpLen+headerLen:])
	}
	if g.step != stepActive || pk.kind != typeMessage|flagEncrypted|flagAuthenticated || pk.id != g.s.bmc {
		return nil, false
	}
	m, ok := g.s.open(pk.payload)
	if !ok || len(m) < messageMin-1 || message(m).netFn() != op.netFn || message(m).command() != op.cmd ||
		!bytes.Equal(m[6:len(m)-1], op.data) {
		return nil, false
	}
	op.sentMsg = m
	return p, true
}

// datagrams are buffers for one Read each.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram + 1]byte) }}

// Read returns the next datagram that is the genuine answer to the announced request.
func (g *guard) Read(p []byte) (int, error) {
	space := datagrams.Get().(*[maxDatagram + 1]byte)
	defer datagrams.Put(space)
	buf := space[:]
	for {
		g.mu.Lock()
		op := g.op
		if op == nil || op.over || op.attempts == 0 { // a goroutine of an operation before would hold this one up
			g.mu.Unlock()
			return 0, timeoutError()
		}
		till := g.readTill
		if op.attempts > g.retries || till.IsZero() || till.After(op.deadline) {
			till = op.deadline // no repetition follows: wait as long as the operation may
		}
		if (op.held != nil || op.kept != nil) && op.until.Before(till) {
			till = op.until
		}
		_ = g.sock.SetReadDeadline(till)
		g.mu.Unlock()

		n, err := g.sock.Read(buf)

		g.mu.Lock()
		due := errors.Is(err, os.ErrDeadlineExceeded) && !op.over && !time.Now().Before(op.until)
		switch {
		case due && op.kept != nil:
			g.mu.Unlock()
			return copy(p, op.kept), nil
		case due && op.held != nil:
			op.fault = op.held
			g.mu.Unlock()
			return 0, errBelieved
		case err != nil:
			g.mu.Unlock()
			return 0, err
		case op.over:
			g.mu.Unlock()
			return 0, timeoutError()
		}
		ok := n <= len(p) && g.admit(op, buf[:n]) && !g.settle(op, buf[:n])
		g.mu.Unlock()
		if ok {
			return copy(p, buf[:n]), nil
		}
	}
}

// settle keeps a proven RAKP 2 back when RAKP 1 was repeated: a slow device answers each,
// and many draw a new random number for each, so that only the last answer still counts.
func (g *guard) settle(op *operation, p []byte) bool {
	if op.kind != typeRAKP1 || op.sent < 2 {
		return false
	}
	if op.kept == nil {
		now := time.Now()
		op.until = now.Add(min(g.packet*5/4, op.deadline.Sub(now)/2))
	}
	op.kept = bytes.Clone(p)
	return true
}

// admit judges one datagram; only true lets the library see it.
func (g *guard) admit(op *operation, p []byte) bool {
	why, refusal := g.judge(op, p)
	switch {
	case refusal != nil:
		g.heard = true
		if op.held == nil && op.kept == nil {
			op.held, op.until = refusal, time.Now().Add(grace)
		}
	case why == accepted:
		g.heard = true
		g.report.Accepted++
		return true
	}
	if why != accepted {
		g.report.drop(why)
		if why.Hostile() {
			op.drops++
		}
	}
	return false
}

// judge says why a datagram must not pass, or that it is accepted. A refusal is
// something the device may have said but did not prove.
func (g *guard) judge(op *operation, p []byte) (Reason, *fault) {
	if len(p) > maxDatagram {
		return Malformed, nil
	}
	pk, ok := parse(p)
	if !ok {
		return Malformed, nil
	}
	if g.step != stepActive {
		return g.judgeHandshake(op, pk)
	}
	switch pk.kind {
	case typeMessage | flagEncrypted | flagAuthenticated:
	case typeOpenResp, typeRAKP2, typeRAKP4:
		return Late, nil // repeated answers of the setup
	default:
		return Unauthenticated, nil
	}
	if pk.id != g.s.ours {
		return ForeignSession, nil
	}
	signed, code, ok := pk.trailer(g.s.codeLen)
	if !ok {
		return Malformed, nil
	}
	if !g.s.signed(signed, code) {
		return BadIntegrity, nil
	}
	if pk.seq <= g.s.lastSeq {
		if pk.seq == g.s.lastSeq {
			return Late, nil // duplicated on the way
		}
		return Replayed, nil
	}
	m, ok := g.s.open(pk.payload)
	if !ok {
		return BadPadding, nil
	}
	if len(m) < messageMin || !message(m).sound() {
		return BadMessage, nil
	}
	if op.sentMsg == nil || !message(m).answers(op.sentMsg) {
		return Unmatched, nil
	}
	g.s.lastSeq = pk.seq
	return accepted, nil
}

// SetReadDeadline keeps the library's wish; Read bounds it by the operation.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readTill = t
	return nil
}

// SetDeadline and SetWriteDeadline complete net.Conn; writes have the operation's deadline.
func (g *guard) SetDeadline(t time.Time) error    { return g.SetReadDeadline(t) }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }
func (g *guard) LocalAddr() net.Addr              { return g.sock.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr             { return g.sock.RemoteAddr() }

// Close gives a half-open session back to the BMC, forgets the keys and closes the socket.
func (g *guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.step == stepOpened || g.step == stepProven:
		g.giveBack(g.s.bmc)
	case g.step == stepIdle && g.unwanted != 0:
		g.giveBack(g.unwanted)
	}
	g.step = stepIdle
	g.s.wipe()
	return g.sock.Close()
}

// giveBack ends the half-open session on the BMC: RAKP 3 with a status other than 00h.
// Without it a few wrong passwords fill all its slots (power.md §3, defect 8). Only a
// proof that failed is called so (0Fh): the BMC may count that towards a lock-out.
func (g *guard) giveBack(id uint32) {
	status := byte(statusNoSlot)
	if g.badProof {
		status = statusBadCheckValue
	}
	payload := append([]byte{g.tag, status, 0, 0}, le32(id)...)
	_ = g.sock.SetWriteDeadline(time.Now().Add(grace))
	_, _ = g.sock.Write(handshake(typeRAKP3, payload)) // best effort: the slot expires by itself
}

func timeoutError() error {
	return &net.OpError{Op: "read", Net: "udp", Err: os.ErrDeadlineExceeded}
}

// Dial hands the guard to the library as its proxy dialer.
func (g *guard) Dial(string, string) (net.Conn, error) { return g, nil }
