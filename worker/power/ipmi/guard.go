// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
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
	errBelieved = errors.New("the device refused")
	errStopped  = errors.New("the packet was stopped")
)

// step is how far the session setup is; it advances only on accepted answers.
type step uint8

const (
	stepIdle step = iota
	stepOpened
	stepProven // RAKP 2 accepted: the BMC knows the password
	stepActive
)

// request is what the driver asks for: a message of the log-in, or a command.
type request struct {
	kind       byte // payload type
	netFn, cmd byte
	data       []byte
	once       bool         // not idempotent: never repeated
	before     func() error // asked before each packet
}

// fault is a refusal by the device with its meaning.
type fault struct {
	kind   corepower.Kind
	code   int
	detail string
	suite  bool // this cipher suite will not do, another may
}

// operation is one exchange.
type operation struct {
	request
	deadline time.Time
	over     bool
	sent     int       // packets that left
	at       time.Time // when the last of them did
	drops    uint64
	sentMsg  message // the message awaiting its answer
	answer   message // the genuine one
	held     *fault
	kept     bool      // a proven RAKP 2 is here, and another may follow (see settle)
	until    time.Time // when held is believed, or kept counts
	fault    *fault
	stopped  error // what before said
}

// guard is the session with one BMC (see doc.go): it makes each packet that leaves, and
// lets in nothing but the genuine answer to it. One goroutine works with it; interrupt may
// be called from others.
type guard struct {
	sock      net.Conn
	retries   int
	packet    time.Duration // without an answer for so long, a packet is repeated
	privilege byte          // asked for in the log-in

	mu     sync.Mutex
	s      session
	step   step
	tag    byte
	check  []byte // RAKP 4 check value to expect
	op     *operation
	till   time.Time // the socket's deadline
	out    []byte    // the last packet; its space is used again
	seq    uint32    // of our last packet in the session
	rqSeq  byte      // of our last message
	heard  bool      // any genuine-looking answer so far
	report Report

	otherSuite bool   // the device refused this suite
	unwanted   uint32 // session id of an answer with weaker algorithms, to give back
	repeated   bool   // RAKP 1 left more than once
	badProof   bool   // RAKP 2 proved another password
}

func newGuard(sock net.Conn, su suite, user, password string, privilege byte, limits power.Limits) *guard {
	g := &guard{sock: sock, retries: limits.Retries, packet: limits.Packet, privilege: privilege, s: session{suite: su, user: user}}
	copy(g.s.kuid[:], password)
	// Random ids and tags make a stranger guess 40 bits and keep late answers of older
	// attempts apart.
	var r [5]byte
	_, _ = rand.Read(r[:])
	_, _ = rand.Read(g.s.crand[:])
	g.s.ours, g.tag = binary.LittleEndian.Uint32(r[:])|1, r[4]
	return g
}

// begin announces a request; until end only its answer enters.
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
		g.setDeadline(time.Unix(1, 0))
	}
}

// end closes an operation. A context may still touch it, but it stays as it is.
func (g *guard) end(op *operation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	op.over, g.op = true, nil
	if op.fault == nil {
		op.fault = op.held // refused, and time ran out before the grace did
	}
	g.otherSuite = g.otherSuite || op.fault != nil && op.fault.suite
	g.badProof = g.badProof || op.fault != nil && op.fault.kind == corepower.AuthFailed
}

// setDeadline sets the socket's deadline where it is another; callers hold mu.
func (g *guard) setDeadline(t time.Time) {
	if !t.Equal(g.till) {
		g.till = t
		_ = g.sock.SetDeadline(t)
	}
}

func (g *guard) active() bool          { g.mu.Lock(); defer g.mu.Unlock(); return g.step == stepActive }
func (g *guard) hasHeard() bool        { g.mu.Lock(); defer g.mu.Unlock(); return g.heard }
func (g *guard) wantsOtherSuite() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.otherSuite }
func (g *guard) remoteID() uint32      { g.mu.Lock(); defer g.mu.Unlock(); return g.s.bmc }
func (g *guard) guid() [16]byte        { g.mu.Lock(); defer g.mu.Unlock(); return g.s.guid }
func (g *guard) snapshot() Report      { g.mu.Lock(); defer g.mu.Unlock(); return g.report }

// exchange sends the announced request, again after each packet time-out where that is
// allowed, and returns when its genuine answer is here, or why it is not.
func (g *guard) exchange(op *operation) error {
	space := datagrams.Get().(*[maxDatagram + 1]byte)
	defer datagrams.Put(space)
	for {
		if err := g.send(op); err != nil {
			return err
		}
		err := g.receive(op, space[:])
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !g.again(op, time.Now()) {
			return err
		}
	}
}

// again: the packet time-out of a request that may be repeated is over, and not all time is.
func (g *guard) again(op *operation, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !op.over && g.repeats(op) && now.Before(op.deadline)
}

func (g *guard) repeats(op *operation) bool { return !op.once && op.sent <= g.retries }

// send lets one packet out.
func (g *guard) send(op *operation) error {
	if op.before != nil && !g.ended(op) {
		if err := op.before(); err != nil {
			g.mu.Lock()
			op.stopped = err
			g.mu.Unlock()
			return errStopped
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if op.over { // maybe while before was asked
		return timeoutError()
	}
	if op.kind == typeMessage {
		g.seal(op)
	} else {
		g.out = append(g.out[:0], handshake(op.kind, g.setup(op.kind))...)
	}
	op.at = time.Now()
	op.sent++
	g.setDeadline(g.waits(op))
	if _, err := g.sock.Write(g.out); err != nil {
		op.sent--
		return err
	}
	g.report.Sent++
	g.repeated = g.repeated || op.kind == typeRAKP1 && op.sent > 1
	return nil
}

func (g *guard) ended(op *operation) bool { g.mu.Lock(); defer g.mu.Unlock(); return op.over }

// seal makes the packet of a message, encrypted and signed. A BMC drops one whose sequence
// number it has seen: so what changes something on the host is repeated as it was and runs
// once, and a question is asked anew.
func (g *guard) seal(op *operation) {
	switch {
	case op.sentMsg != nil && op.command():
		return
	case op.sentMsg == nil:
		g.rqSeq = (g.rqSeq + 1) & 0x3f
		op.sentMsg = newMessage(op.netFn, op.cmd, g.rqSeq, op.data)
	}
	g.seq++
	g.out = g.s.seal(g.out[:0], g.seq, op.sentMsg)
}

// waits is until when an answer is waited for before anything else happens.
func (g *guard) waits(op *operation) time.Time {
	till := op.deadline
	if again := op.at.Add(g.packet); g.repeats(op) && again.Before(till) {
		till = again
	}
	if (op.held != nil || op.kept) && op.until.Before(till) {
		till = op.until
	}
	return till
}

// datagrams are buffers for one exchange each.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram + 1]byte) }}

// receive waits for the genuine answer.
func (g *guard) receive(op *operation, buf []byte) error {
	for {
		n, err := g.sock.Read(buf)
		if done, err := g.received(op, buf[:n], err); done {
			return err
		}
	}
}

func (g *guard) received(op *operation, p []byte, err error) (done bool, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	due := errors.Is(err, os.ErrDeadlineExceeded) && !op.over && !time.Now().Before(op.until)
	switch {
	case due && op.kept:
		return true, nil
	case due && op.held != nil:
		op.fault = op.held
		return true, errBelieved
	case op.over:
		return true, timeoutError()
	case err != nil:
		return true, err
	}
	if g.admit(op, p) && !g.settle(op) {
		return true, nil
	}
	g.setDeadline(g.waits(op)) // a refusal may wait for its grace
	return false, nil
}

// settle keeps a proven RAKP 2 back when RAKP 1 was repeated: a slow device answers each,
// and many draw a new random number for each, so that only the last answer still counts.
func (g *guard) settle(op *operation) bool {
	if op.kind != typeRAKP1 || op.sent < 2 {
		return false
	}
	if !op.kept {
		now := time.Now()
		op.until = now.Add(min(g.packet*5/4, op.deadline.Sub(now)/2))
	}
	op.kept = true
	return true
}

// admit judges one datagram; true for the genuine answer.
func (g *guard) admit(op *operation, p []byte) bool {
	why, refusal := g.judge(op, p)
	switch {
	case refusal != nil:
		g.heard = true
		if op.held == nil && !op.kept {
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
	g.s.lastSeq, op.answer = pk.seq, m
	return accepted, nil
}

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
	g.setDeadline(time.Now().Add(grace))
	_, _ = g.sock.Write(handshake(typeRAKP3, payload)) // best effort: the slot expires by itself
}

func timeoutError() error {
	return &net.OpError{Op: "read", Net: "udp", Err: os.ErrDeadlineExceeded}
}
