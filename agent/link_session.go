// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	// welcomeLimit is how long a worker may take from the dial to its first frame.
	welcomeLimit = 5 * time.Second
	// goodbyeLimit is how long a goodbye may take to be heard.
	goodbyeLimit = time.Second
	// maxFrame bounds what is taken from a worker and sent to it, in bytes.
	maxFrame = 1 << 20
	// bufferSize keeps an idle link small (leases.md §7).
	bufferSize = 4 << 10
)

// session is one stream to one worker, from its Welcome on. The goroutine in run sends,
// the one in receive receives; requests are worked on beside them.
type session struct {
	agent    *Agent
	stream   agentpb.Link_ConnectClient
	halfOpen *time.Timer          // ends the stream when no ping is answered in time
	outbox   chan *agentpb.Answer // to be sent
	requests sync.WaitGroup
	seq      uint64         // of the last ping
	told     map[string]int // last step of each command that was sent in this session
}

// session dials a worker, says hello, and stays until the link ends or ctx does.
func (a *Agent) session(ctx context.Context, address, boot string, number uint64) ending {
	if err := a.opts.checkAddress(address); err != nil {
		return ending{err: err}
	}
	conn, err := a.connect(address)
	if err != nil {
		return ending{err: fmt.Errorf("dial worker %s: %w", address, err)}
	}
	defer conn.Close()

	// The stream outlives ctx by the time of a goodbye.
	live, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	opening := time.AfterFunc(welcomeLimit, func() { cancel(fmt.Errorf("no answer within %v", welcomeLimit)) })
	defer opening.Stop()
	stopping := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer stopping()

	stream, welcome, end := a.open(live, conn, boot, number)
	if welcome == nil {
		end = a.explain(end)
		if end.err != nil && context.Cause(live) != nil {
			end.err = context.Cause(live)
		}
		return end
	}
	if !opening.Stop() || !stopping() {
		<-live.Done() // whoever was quicker is about to say why
		return ending{err: context.Cause(live)}
	}
	if err := a.take(welcome); err != nil {
		return ending{err: err}
	}
	a.opts.Logger.Info("linked", "worker", welcome.GetWorker(), "address", address, "epoch", welcome.GetEpoch().GetRevision())

	s := &session{agent: a, stream: stream, outbox: make(chan *agentpb.Answer), told: map[string]int{}}
	s.halfOpen = time.AfterFunc(a.settings.get().halfOpen(), func() { cancel(errors.New("link is half-open: no ping was answered in time")) })
	defer s.halfOpen.Stop()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(goodbyeLimit, func() { cancel(errors.New("agent stops")) })
	})()
	end = s.run(ctx, live)
	if end.refusal == nil && context.Cause(live) != nil {
		end.err = context.Cause(live)
	}
	cancel(nil)
	s.requests.Wait()
	return end
}

// connect prepares a connection; the first stream dials it.
func (a *Agent) connect(address string) (*grpc.ClientConn, error) {
	secure, err := a.credentials(address)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return a.opts.Dial(ctx, address) }),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFrame), grpc.MaxCallSendMsgSize(maxFrame)),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize), grpc.WithSharedWriteBuffer(true),
	)
}

// open says hello. Without a welcome it returns how the attempt ended.
func (a *Agent) open(ctx context.Context, conn *grpc.ClientConn, boot string, number uint64) (agentpb.Link_ConnectClient, *agentpb.Welcome, ending) {
	stream, err := agentpb.NewLinkClient(conn).Connect(ctx)
	if err != nil {
		return nil, nil, ending{err: err}
	}
	hello := &agentpb.Hello{
		Host: a.opts.Host, BootId: boot, ProcessId: a.process, Session: number, Version: a.opts.Version,
		HighestEpoch: a.epochs.highest(), Hypervisors: []string{a.opts.Hypervisor.Name()}, Report: a.report(),
		Journal: a.commands.entries(), JournalProblems: a.commands.problems(),
	}
	// A failed send is explained by what comes back.
	_ = stream.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: hello}})
	first, err := stream.Recv()
	switch {
	case err != nil:
		return nil, nil, ending{err: err}
	case first.GetRefusal() != nil:
		return nil, nil, ending{refusal: first.GetRefusal()}
	case first.GetWelcome() == nil:
		return nil, nil, ending{err: errors.New("worker's first frame is neither a welcome nor a refusal")}
	}
	return stream, first.GetWelcome(), ending{}
}

// take acts on a welcome, unless it comes from an owner that was replaced.
func (a *Agent) take(w *agentpb.Welcome) error {
	if err := a.admit(w.GetEpoch()); err != nil {
		return fmt.Errorf("refuse welcome of worker %s: %w", w.GetWorker(), err)
	}
	a.apply(w.GetSettings())
	var list []string
	for _, worker := range w.GetWorkers() {
		list = append(list, worker.GetAddress())
	}
	if err := a.workers.update(list); err != nil {
		a.opts.Logger.Warn("worker list not kept", "worker", w.GetWorker(), "cause", err)
	}
	a.gate.ask(w.GetGate())
	return nil
}

func (a *Agent) apply(s *agentpb.Settings) {
	if err := a.settings.apply(s); err != nil {
		a.opts.Logger.Warn("setting refused", "cause", err)
	}
}

// run pings and sends answers until the stream or ctx ends. live is the stream's context.
func (s *session) run(ctx, live context.Context) ending {
	received := make(chan ending, 1)
	go func() { received <- s.receive(live) }()
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	for {
		v, changed := s.agent.settings.watch()
		next := time.NewTimer(v.ping)
		for due := false; !due; {
			written := s.agent.commands.changed() // before they are read: none is overlooked
			err := s.sendSteps()
			if err != nil {
				next.Stop()
				return <-received
			}
			select {
			case <-written:
			case <-progress.C:
				err = s.sendProgress()
			case <-next.C:
				due, err = true, s.ping()
			case <-s.agent.gate.news:
				err = s.ping()
			case answer := <-s.outbox:
				err = s.stream.Send(&agentpb.Up{Frame: &agentpb.Up_Answer{Answer: answer}})
			case <-changed:
				due = true // at worst a ping comes one new interval late
			case end := <-received:
				next.Stop()
				return end
			case <-ctx.Done():
				next.Stop()
				s.goodbye()
				return <-received
			}
			if err != nil {
				next.Stop()
				return <-received // which knows why
			}
		}
		next.Stop()
	}
}

func (s *session) ping() error {
	s.seq++
	return s.stream.Send(&agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{
		Seq: s.seq, Report: s.agent.report(), GateConfirmed: s.agent.gate.confirmedGeneration(), Journal: s.agent.commands.entries(),
	}}})
}

// goodbye tells the worker that the silence to come is an orderly stop. The stream ends
// when the worker has heard it, or after goodbyeLimit.
func (s *session) goodbye() {
	_ = s.stream.Send(&agentpb.Up{Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_AGENT_STOP}}})
	_ = s.stream.CloseSend()
}

// receive acts on the worker's frames until the stream ends.
func (s *session) receive(live context.Context) ending {
	for {
		down, err := s.stream.Recv()
		if err != nil {
			return ending{welcomed: true, err: err}
		}
		switch frame := down.GetFrame().(type) {
		case *agentpb.Down_Pong:
			if err := s.pong(frame.Pong); err != nil {
				return ending{welcomed: true, err: err}
			}
		case *agentpb.Down_Request:
			s.start(live, frame.Request)
		case *agentpb.Down_Refusal:
			return ending{welcomed: true, refusal: frame.Refusal}
		}
	}
}

// pong is the proof that the link works in both directions, unless its sender has been
// replaced as the owner.
func (s *session) pong(p *agentpb.Pong) error {
	a := s.agent
	if err := a.admit(p.GetEpoch()); err != nil {
		return fmt.Errorf("refuse pong: %w", err)
	}
	a.apply(p.GetSettings())
	if p.GetGate() != nil {
		a.gate.ask(p.GetGate())
	}
	s.halfOpen.Reset(a.settings.get().halfOpen())
	a.commands.forget(p.GetForget())
	return nil
}

// start works on a request beside the others, if there is room.
func (s *session) start(live context.Context, r *agentpb.Request) {
	a := s.agent
	var answer *agentpb.Answer
	select {
	case a.requests <- struct{}{}:
	default:
		answer = &agentpb.Answer{Id: r.GetId(), Error: fmt.Sprintf("refuse request: %d are under way already", maxRequests)}
	}
	s.requests.Go(func() {
		if answer == nil {
			answer = a.handle(live, r)
			<-a.requests
		}
		select {
		case s.outbox <- answer:
		case <-live.Done():
		}
	})
}
