// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	// lastWord is how long a refused peer may take to hear why, and lastBytes how much of what it
	// says meanwhile is thrown away.
	lastWord  = 500 * time.Millisecond
	lastBytes = frame.Max
	// rpc is what ALPN calls gRPC, and rpcPreface how a connection of it begins.
	rpc        = "h2"
	rpcPreface = "PRI * HTTP/2.0\r\n"
	// acceptAgain is how long a door waits that cannot take another connection just now, e.g.
	// because there are too many files.
	acceptAgain = 100 * time.Millisecond
)

// alive finds peers that are gone without a word; on a link pings do so earlier.
var alive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// Door is a worker's port for agents and for other workers. It shakes hands itself; those who chose
// frames by ALPN are agents and talk to the Server, all others speak gRPC.
type Door struct {
	s     *Server
	src   *trust.Source // nil: plaintext
	conf  *tls.Config
	crowd *crowd
	pace  *bucket
	grpc  *grpc.Server
	rpcs  *handed
	limit time.Duration  // of a handshake
	work  sync.WaitGroup // handshakes and conversations

	mu       sync.Mutex
	listener net.Listener
	open     map[*held]bool
	stopped  bool
}

// NewDoor makes the door of s, whose issuer and peers are set. Only hosts and workers with a
// certificate that src admits get in, each for itself, and whoever has none to the enrolment alone;
// with a nil src the door is plaintext, which only a loopback address may be.
func NewDoor(s *Server, src *trust.Source, opts ...grpc.ServerOption) *Door {
	d := &Door{s: s, src: src, crowd: newCrowd(s), pace: &bucket{now: time.Now}, rpcs: newHanded(), limit: handshakeLimit, open: map[*held]bool{}}
	readBuffer := 4 << 10
	if s.trust = src; src != nil {
		readBuffer = 0 // crypto/tls keeps what it has read beyond
		d.conf = src.Door(frame.Protocol, rpc)
		opts = append(opts, grpc.Creds(shaken{insecure.NewCredentials()}))
	}
	d.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(frame.Max), grpc.MaxSendMsgSize(frame.Max),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(8 << 10), grpc.ConnectionTimeout(handshakeLimit),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), // fixed: what one connection may keep here
		grpc.ReadBufferSize(readBuffer), grpc.WriteBufferSize(4 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}, opts...)...)
	agentpb.RegisterRelayServer(d.grpc, s)
	agentpb.RegisterPeersServer(d.grpc, &s.peers)
	if s.issuer != nil {
		agentpb.RegisterEnrollServer(d.grpc, s)
	}
	return d
}

// Serve lets in whoever comes to l until Stop, which closes l; then it returns nil. It is called once.
func (d *Door) Serve(l net.Listener) error {
	d.mu.Lock()
	d.listener = l
	stopped := d.stopped
	if !stopped {
		d.work.Go(func() { _ = d.grpc.Serve(d.rpcs) }) // it ends with Stop
	}
	d.mu.Unlock()
	if stopped {
		return l.Close()
	}
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			h := &held{Conn: raw, door: d}
			if d.note(h) {
				go d.meet(h)
			}
		case d.isStopped():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			d.s.log.Warn("no connection can be accepted", "cause", err, "retry_in", acceptAgain)
			<-time.After(acceptAgain)
		}
	}
}

// Stop closes the listener and, after a moment for last words, all connections, and waits until
// nobody talks. Server.Close is to be called before, which says the last words.
func (d *Door) Stop() {
	d.mu.Lock()
	d.stopped = true
	l := d.listener
	d.mu.Unlock()
	if l != nil {
		_ = l.Close() // it may be closed already
	}
	d.grpc.Stop()
	quiet := make(chan struct{})
	go func() {
		d.work.Wait()
		close(quiet)
	}()
	late := time.NewTimer(lastWord)
	defer late.Stop()
	select {
	case <-quiet:
	case <-late.C:
	}
	d.mu.Lock()
	left := d.open
	d.open = nil
	d.mu.Unlock()
	for h := range left {
		_ = h.Close()
	}
	<-quiet
}

func (d *Door) isStopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopped
}

// note remembers a connection until it is closed; meet is to be called for it then.
func (d *Door) note(h *held) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		_ = h.Conn.Close() // nothing was said on it
		return false
	}
	d.open[h] = true
	d.work.Add(1)
	return true
}

// meet finds out who has come and what is spoken. A conversation gets a goroutine of its own: this
// one has needed a large stack to shake hands.
func (d *Door) meet(h *held) {
	defer d.work.Done()
	if err := h.SetDeadline(time.Now().Add(d.limit)); err != nil {
		_ = h.Close()
		return
	}
	conn, g, protocol, err := d.know(h)
	if err == nil {
		err = h.SetDeadline(time.Time{})
	}
	switch {
	case err != nil:
		_ = h.Close() // it was told why, if it could be
	case protocol == rpc:
		d.rpcs.give(conn)
	default:
		h.limit()
		d.work.Go(func() { d.s.converse(frame.New(conn), g) })
	}
}

// know returns a connection that is ready, whose it is, and what is spoken on it.
func (d *Door) know(h *held) (net.Conn, guest, string, error) {
	if d.src == nil {
		conn, protocol, err := plain(h)
		return conn, guest{from: h.RemoteAddr()}, protocol, err
	}
	if err := d.pace.enter(); err != nil {
		return nil, guest{}, "", err
	}
	conn := tls.Server(h, d.conf)
	if err := conn.Handshake(); err != nil { // the deadline is set
		d.src.Refused("agents", h.RemoteAddr().String(), err)
		leave(h.Conn)
		return nil, guest{}, "", err
	}
	state := conn.ConnectionState()
	g := guest{shown: state.PeerCertificates, from: h.RemoteAddr()}
	left, err := d.crowd.enter(h, g.shown)
	d.mu.Lock()
	h.left = left
	d.mu.Unlock()
	if err == nil && state.NegotiatedProtocol == "" {
		err = fmt.Errorf("it asks for no protocol: spoken here are %s and %s", frame.Protocol, rpc)
	}
	if err != nil {
		d.src.Refused("agents", h.RemoteAddr().String(), err)
	}
	return conn, g, state.NegotiatedProtocol, err
}

// plain tells by its first bytes what is spoken on a connection without TLS.
func plain(h *held) (net.Conn, string, error) {
	first := make([]byte, len(frame.Preface))
	if _, err := io.ReadFull(h, first); err != nil {
		return nil, "", err
	}
	switch string(first) {
	case frame.Preface:
		return h, frame.Protocol, nil
	case rpcPreface:
		return &begun{h, strings.NewReader(rpcPreface)}, rpc, nil
	}
	_, err := io.WriteString(h, "plaintext is spoken here, and only "+frame.Protocol+" and gRPC\n")
	leave(h.Conn)
	return nil, "", errors.Join(errors.New("neither frames nor gRPC"), err)
}

// begun is a connection whose first bytes were looked at.
type begun struct {
	net.Conn
	first *strings.Reader
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if b.first.Len() > 0 {
		return b.first.Read(p)
	}
	return b.Conn.Read(p)
}

// leave lets a refused peer read why before the connection is closed: closing while its own frames
// are unread would reset it, and the reason would be lost.
func leave(raw net.Conn) {
	if w, ok := raw.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // a second time in the usual case
	}
	if raw.SetReadDeadline(time.Now().Add(lastWord)) == nil {
		_, _ = io.CopyN(io.Discard, raw, lastBytes) // ends with the peer, at the deadline, or with enough
	}
}

// held is a connection of a door, below TLS. It is counted until it is closed.
type held struct {
	net.Conn
	door *Door
	once sync.Once
	left func() // nil: nobody else counts; guarded by the door's lock
}

// Close implements net.Conn.
func (h *held) Close() error {
	h.once.Do(func() {
		h.door.mu.Lock()
		delete(h.door.open, h)
		left := h.left
		h.door.mu.Unlock()
		if left != nil {
			left()
		}
	})
	return h.Conn.Close()
}

// CloseWrite ends what is sent, not what is read.
func (h *held) CloseWrite() error {
	if w, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// limit bounds what the kernel keeps of an agent's frames that are not read, here or there: TCP's
// windows are the only ones that frames have.
func (h *held) limit() {
	if c, ok := h.Conn.(*net.TCPConn); ok {
		_ = errors.Join(c.SetReadBuffer(window), c.SetWriteBuffer(window), c.SetKeepAliveConfig(alive)) // a peer that is gone already is noticed soon enough
	}
}

// handed is the listener of gRPC: connections that have shaken hands.
type handed struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newHanded() *handed {
	l := &handed{conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

func (l *handed) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close() // nobody talks on it any more
	}
}

// Accept implements net.Listener.
func (l *handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *handed) Close() error {
	l.close()
	return nil
}

// Addr implements net.Listener.
func (l *handed) Addr() net.Addr { return &net.TCPAddr{} }

// shaken tells gRPC what the door's handshake has shown.
type shaken struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (shaken) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("the connection is not TLS")
	}
	return c, credentials.TLSInfo{State: c.ConnectionState(), CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

// Clone implements credentials.TransportCredentials.
func (s shaken) Clone() credentials.TransportCredentials { return s }
