// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
)

// goodbyeLimit is how long a goodbye may take to be heard.
const goodbyeLimit = time.Second

// purpose is what a Hello asks for.
type purpose int

const (
	toUse     purpose = iota // a session in use
	toMove                   // the same, and what becomes of the stream that is left for it is left to the agent
	toStandBy                // a silent stream
)

func (p purpose) role() agentpb.Hello_Role {
	if p == toStandBy {
		return agentpb.Hello_STANDBY
	}
	return agentpb.Hello_ACTIVE
}

// session is one stream to one worker: a silent one that stands by, or the active one, and the
// one after the other as often as it is promoted, and left for another.
// receive receives from the beginning to the end; run pings and sends answers while the
// session is the active one. Requests are worked on beside them, and their answers leave by
// whichever session is active then.
type session struct {
	agent   *Agent
	address string
	worker  string // its id, from its Welcome
	conn    *frame.Conn
	cancel  context.CancelCauseFunc // of the stream: its connection is closed
	cause   func() error            // why it was cancelled, nil while it was not
	greeted chan *agentpb.Down      // answers to a Hello that is waited for
	again   chan struct{}           // a token: the worker asks for another Hello
	spared  chan struct{}           // a token: its owner has a newer session of this process, the stream goes on
	keep    bool                    // it is to stand by when it has been left; set before leave is closed
	leave   chan struct{}           // closed when another session has taken the place of this one
	left    chan struct{}           // closed when nothing more is sent on it
	ended   chan struct{}           // closed when the stream has ended, and end says how
	end     ending

	shown []*x509.Certificate // by the worker; guarded by the lock of the agent's distrust

	mu       sync.Mutex
	halfOpen *time.Timer // ends the stream in use when no ping is answered in time
	silent   *time.Timer // the same for one that stands by
	seq      uint64      // of the last ping
	pinged   pings       // in the session in use
	told     told        // the steps of commands that were sent in this session
}

// dial opens a stream to a worker and says hello on it. Without a session it returns how
// the attempt ended; after that nothing of it is left. limit is how long the worker may take
// from the dial to its first frame.
func (a *Agent) dial(ctx context.Context, address string, to purpose, limit time.Duration) (*session, ending) {
	if err := a.opts.checkAddress(address); err != nil {
		return nil, ending{err: err}
	}
	s := &session{
		agent: a, address: address, greeted: make(chan *agentpb.Down, 1), again: make(chan struct{}, 1), spared: make(chan struct{}, 1),
		leave: make(chan struct{}), left: make(chan struct{}), ended: make(chan struct{}),
	}
	// The stream outlives ctx by the time of a goodbye.
	live, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s.cancel, s.cause = cancel, func() error { return context.Cause(live) }
	opening := time.AfterFunc(limit, func() { s.cancel(fmt.Errorf("no answer within %v", limit)) })
	defer opening.Stop()
	stopping := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer stopping()
	var err error
	if s.conn, err = a.connect(live, address); err != nil {
		end := a.explain(ending{err: err})
		if cause := s.cause(); cause != nil {
			end.err = cause
		}
		s.cancel(nil)
		return nil, end
	}
	context.AfterFunc(live, s.conn.Cut)
	go s.receive(ctx)
	end, ok := s.hello(ctx, to, limit)
	if !ok && (to == toStandBy || !s.waits(end)) {
		s.close(errors.New("not welcome"))
		return nil, end
	}
	if !opening.Stop() || !stopping() {
		<-live.Done() // whoever was quicker is about to say why
		s.close(nil)
		return nil, ending{err: s.cause()}
	}
	return s, end
}

// waits: the stream is left open for another hello, because nobody owns the host yet, or the
// worker cannot tell who does.
func (s *session) waits(end ending) bool { return !s.over() && stays(end.refusal) }

// over: the stream has ended.
func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// stays: the stream goes on after this refusal.
func stays(r *agentpb.Refusal) bool {
	return r.GetReason() == agentpb.Refusal_NO_OWNER || r.GetReason() == agentpb.Refusal_BLIND
}

// hello says hello on the stream and waits for the answer: a new stream begins with it, a
// standby one is promoted by it. Without a welcome it returns how the attempt ended.
func (s *session) hello(ctx context.Context, to purpose, within time.Duration) (ending, bool) {
	select {
	case <-s.greeted: // of a hello that was given up
	default:
	}
	limit := time.NewTimer(within)
	defer limit.Stop()
	s.greet(to)
	select {
	case d := <-s.greeted:
		if r := d.GetRefusal(); r != nil {
			return ending{refusal: r}, false
		}
		s.worker = d.GetWelcome().GetWorker()
		if to == toStandBy {
			return ending{}, true
		}
		if err := s.agent.take(d.GetWelcome()); err != nil {
			return ending{err: err}, false
		}
		return ending{welcomed: true}, true
	case <-s.ended:
		return s.agent.explain(s.end), false
	case <-limit.C:
		return ending{err: fmt.Errorf("no answer within %v", within)}, false
	case <-ctx.Done():
		return ending{err: context.Cause(ctx)}, false
	}
}

// greet sends a Hello; a failed send is explained by what comes back.
func (s *session) greet(to purpose) {
	a := s.agent
	_ = s.send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: &agentpb.Hello{
		Host: a.opts.Host, BootId: a.boot, ProcessId: a.process, Session: a.sessions.Add(1), Version: a.opts.Version,
		HighestEpoch: a.epochs.highest(), Hypervisors: []string{a.opts.Hypervisor.Name()}, Report: a.report(),
		Journal: a.commands.entries(), JournalProblems: a.commands.problems(), Role: to.role(), Keeps: to == toMove, List: a.workers.wire(),
	}}})
}

// send sends a frame. Where the worker may have said why it fails, or has hung up, whoever receives
// knows; of any other failure nobody else would.
func (s *session) send(up *agentpb.Up) error {
	err := s.conn.Write(up)
	if errors.Is(err, frame.ErrTooLarge) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.cancel(fmt.Errorf("send to worker %s: %w", s.address, err))
	}
	return err
}

// close ends the stream, if it has not ended, and waits until nothing of it is left.
func (s *session) close(cause error) {
	s.cancel(cause)
	<-s.ended
	s.mu.Lock()
	if s.silent != nil {
		s.silent.Stop()
	}
	s.mu.Unlock()
}

// connect dials a worker and chooses frames with it, until ctx ends.
func (a *Agent) connect(ctx context.Context, address string) (*frame.Conn, error) {
	conf, err := a.secure(address)
	if err != nil {
		return nil, err
	}
	raw, err := a.opts.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if conf == nil {
		if _, err := io.WriteString(raw, frame.Preface); err != nil { // few: they find room
			_ = raw.Close()
			return nil, err
		}
		return frame.New(raw), nil
	}
	conn := tls.Client(raw, conf)
	if err = conn.HandshakeContext(ctx); err == nil && conn.ConnectionState().NegotiatedProtocol != frame.Protocol {
		err = errOtherProtocol
	}
	if err != nil {
		_ = raw.Close() // nothing was sent
		return nil, otherProtocol(err)
	}
	return frame.New(conn), nil
}

// take acts on a welcome, unless it comes from an owner that was replaced.
func (a *Agent) take(w *agentpb.Welcome) error {
	if err := a.admit(w.GetEpoch()); err != nil {
		return fmt.Errorf("refuse welcome of worker %s: %w", w.GetWorker(), err)
	}
	a.apply(w.GetSettings())
	a.takeList(w.GetList())
	a.gate.ask(w.GetGate())
	return nil
}

// takeList takes over a list of workers; nil changes nothing.
func (a *Agent) takeList(l *agentpb.List) {
	if err := a.workers.update(l); err != nil {
		a.opts.Logger.Warn("worker list not kept", "cause", err)
	}
}

func (a *Agent) apply(s *agentpb.Settings) {
	if err := a.settings.apply(s); err != nil {
		a.opts.Logger.Warn("setting refused", "cause", err)
	}
}

// activate makes it the session in use, which is given up when no ping is answered in time.
func (s *session) activate() {
	select {
	case <-s.spared: // of a session before this one
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent != nil {
		s.silent.Stop()
	}
	s.halfOpen = time.AfterFunc(s.agent.settings.get().halfOpen(), func() { s.cancel(errors.New("link is half-open: no ping was answered in time")) })
}

// standsBy lets the silent stream be given up when no ping is answered in time.
func (s *session) standsBy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = time.AfterFunc(s.agent.settings.get().halfOpen(), func() { s.cancel(errors.New("standby stream is half-open: no ping was answered in time")) })
}

// quietPing asks whether a silent stream still works in both directions. A failed send is
// explained by what comes back.
func (s *session) quietPing() {
	s.seq++
	_ = s.send(&agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{Seq: s.seq}}})
}

// rests makes a silent stream of one that has been left and kept: nothing is sent on it any more.
func (s *session) rests() {
	s.leave, s.left = make(chan struct{}), make(chan struct{})
	for _, token := range []chan struct{}{s.again, s.spared} { // they were for the session in use
		select {
		case <-token:
		default:
		}
	}
	s.told.forget()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range []*time.Timer{s.halfOpen, s.silent} { // a late pong may have set either again
		if t != nil {
			t.Stop()
		}
	}
	s.halfOpen, s.silent = nil, nil
}

// run pings and sends answers until the stream ends, ctx does, or another session has
// taken its place. It returns when the stream has ended, or is kept.
func (s *session) run(ctx context.Context) {
	defer s.halfOpen.Stop()
	how := s.beat(ctx)
	close(s.left)
	switch how {
	case kept:
		return
	case parted:
		time.AfterFunc(goodbyeLimit, func() { s.cancel(errors.New("the other side does not hang up")) })
	}
	<-s.ended
	s.close(nil)
}

// parting is how a session in use ends.
type parting int

const (
	broken parting = iota
	parted         // orderly: the stream is half closed
	kept           // the stream goes on
)

// beat pings and sends answers until that.
func (s *session) beat(ctx context.Context) parting {
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	for {
		v, changed := s.agent.settings.watch()
		next := time.NewTimer(v.ping)
		for due := false; !due; {
			written := s.agent.commands.changed() // before they are read: none is overlooked
			held, err := s.sendSteps()
			if err != nil {
				next.Stop()
				return broken // whoever receives knows why
			}
			var tell <-chan time.Time
			if held { // else nothing makes progress, and an idle agent sleeps from ping to ping
				tell = progress.C
			}
			select {
			case <-written:
			case <-tell:
				err = s.sendProgress()
			case <-next.C:
				due, err = true, s.ping()
			case <-s.agent.gate.news:
				err = s.ping()
			case answer := <-s.agent.outbox:
				err = s.send(&agentpb.Up{Frame: &agentpb.Up_Answer{Answer: answer}})
			case <-s.again:
				select {
				case <-s.leave: // its Hello would be newer than that of the session in its place
				default:
					s.told.forget() // they go to somebody else
					s.greet(toUse)
				}
			case <-changed:
				due = true // at worst a ping comes one new interval late
			case <-s.ended:
				next.Stop()
				return broken
			case <-s.leave:
				next.Stop()
				if s.keep {
					return kept
				}
				_ = s.conn.CloseWrite() // what was asked on it is still taken until the worker hangs up
				return parted
			case <-ctx.Done():
				next.Stop()
				s.goodbye()
				return parted
			}
			if err != nil {
				next.Stop()
				return broken
			}
		}
		next.Stop()
	}
}

func (s *session) ping() error {
	s.seq++
	s.pinged.sent(s.seq, time.Now())
	return s.send(&agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{
		Seq: s.seq, Report: s.agent.report(), GateConfirmed: s.agent.gate.confirmedGeneration(), Journal: s.agent.commands.entries(),
	}}})
}

// pings are those of late, so that the time to their answers can be told.
type pings struct {
	mu   sync.Mutex
	late [16]struct {
		seq uint64
		at  time.Time
	}
}

func (p *pings) sent(seq uint64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := &p.late[seq%uint64(len(p.late))]
	x.seq, x.at = seq, at
}

// answered is how long the answer to a ping took; false when the ping is not known, or was
// answered before.
func (p *pings) answered(seq uint64, at time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := &p.late[seq%uint64(len(p.late))]
	if seq == 0 || x.seq != seq {
		return 0, false
	}
	x.seq = 0
	return at.Sub(x.at), true
}

// goodbye tells the worker that the silence to come is an orderly stop. The stream ends
// when the worker has heard it, or after goodbyeLimit.
func (s *session) goodbye() {
	_ = s.send(&agentpb.Up{Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_AGENT_STOP}}})
	_ = s.conn.CloseWrite()
}

// receive acts on the worker's frames until the stream ends. ctx is the life of what is
// asked on it.
func (s *session) receive(ctx context.Context) {
	defer close(s.ended)
	defer s.hides()
	if t, ok := s.conn.Conn.(*tls.Conn); ok {
		s.shows(t.ConnectionState().PeerCertificates)
	}
	for over := false; !over; {
		down := new(agentpb.Down)
		if _, err := s.conn.Read(down); err != nil {
			s.end = ending{err: hungUp(err)}
			break
		}
		s.end, over = s.got(ctx, down)
	}
	if cause := s.cause(); s.end.refusal == nil && cause != nil {
		s.end.err = cause
	}
	s.cancel(nil)
}

// hungUp says in words how a connection has ended.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the worker has hung up")
	}
	return err
}

// got acts on one frame; over ends the stream, and says how.
func (s *session) got(ctx context.Context, down *agentpb.Down) (end ending, over bool) {
	a := s.agent
	switch frame := down.GetFrame().(type) {
	case *agentpb.Down_Welcome:
		if !s.active() {
			s.answer(down)
			break
		}
		// The answer to another hello on the stream in use.
		if err := a.take(frame.Welcome); err != nil {
			return ending{welcomed: true, err: err}, true
		}
		s.answered()
	case *agentpb.Down_Refusal:
		switch {
		case frame.Refusal.GetKeeps():
			signal(s.spared)
		case !stays(frame.Refusal):
			s.answer(down)
			return ending{welcomed: s.active(), refusal: frame.Refusal}, true
		case s.active(): // the link is good, the host's owner is not there yet
			time.AfterFunc(a.settings.get().retry, func() { signal(s.again) })
			if frame.Refusal.GetReason() == agentpb.Refusal_BLIND {
				signal(a.blind)
			}
		default:
			s.answer(down)
		}
	case *agentpb.Down_Pong:
		if err := s.pong(frame.Pong); err != nil {
			return ending{welcomed: true, err: err}, true
		}
	case *agentpb.Down_Request:
		a.start(ctx, frame.Request)
	case *agentpb.Down_NewList:
		a.takeList(frame.NewList)
	case *agentpb.Down_Revoked:
		a.distrusts(frame.Revoked)
	case *agentpb.Down_Again:
		signal(s.again)
	case *agentpb.Down_Move:
		select {
		case a.moves <- frame.Move:
		default: // one is under way
		}
	default:
		if !s.active() {
			return ending{err: errors.New("worker's first frame is neither a welcome nor a refusal")}, true
		}
	}
	return ending{}, false
}

// answer hands the answer to a hello over to who waits for it.
func (s *session) answer(down *agentpb.Down) {
	select {
	case s.greeted <- down:
	default: // nobody waits: the hello was given up
	}
}

// active: the session is, or was, the one in use.
func (s *session) active() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halfOpen != nil
}

// answered: the link works in both directions.
func (s *session) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range []*time.Timer{s.halfOpen, s.silent} {
		if t != nil {
			t.Reset(s.agent.settings.get().halfOpen())
			return // the session in use minds the first alone
		}
	}
}

// pong is the proof that the link works in both directions, unless its sender has been
// replaced as the owner. One without an epoch is the carrier's own word: nothing is done on
// it.
func (s *session) pong(p *agentpb.Pong) error {
	a := s.agent
	if p.GetEpoch() == nil {
		s.answered()
		return nil
	}
	if err := a.admit(p.GetEpoch()); err != nil {
		return fmt.Errorf("refuse pong: %w", err)
	}
	now := time.Now()
	a.answered.Store(&now)
	if took, ok := s.pinged.answered(p.GetSeq(), now); ok {
		a.metrics.roundTrip.Observe(took.Seconds())
	}
	a.apply(p.GetSettings())
	if p.GetGate() != nil {
		a.gate.ask(p.GetGate())
	}
	s.answered()
	a.commands.forget(p.GetForget())
	s.told.again(p.GetKnown())
	return nil
}

// forget has all steps sent again.
func (t *told) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.last)
}
