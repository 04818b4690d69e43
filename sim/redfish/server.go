// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

// Config describes a service. Zero fields take the defaults named.
type Config struct {
	Name              string           // in the truth log
	Addr              string           // "ip:port" to listen on; port 0 takes a free one
	Systems           []System         // one system "1" that is on
	Users             []bmc.User       // Operator and above may control
	Slots             int              // of sessions: 4
	SessionTimeout    time.Duration    // of silence until a session ends: 60 s
	ResetTypes        []string         // allowable values: all that are known
	ActionInfo        bool             // the allowable values stand behind @Redfish.ActionInfo
	Tasks             bool             // a reset is answered 202 with a task
	LocationIndicator bool             // the lamp is LocationIndicatorActive, not IndicatorLED
	Plain             bool             // HTTP without TLS
	Seed              uint64           // of certificate, tokens and random faults
	Now               func() time.Time // time.Now
	OnCommand         func(bmc.Entry)  // sees each entry of the truth log, in order, and returns promptly
}

// System is one computer system of a service. Zero fields take the defaults named.
type System struct {
	ID      string      // in its URI: its number, from 1
	UUID    string      // none
	Serial  string      // none
	Chassis bmc.Chassis // a model chassis that is on
}

func (c Config) validate() error {
	if c.Slots < 1 || c.Slots > 255 {
		return fmt.Errorf("slots is %d, allowed is 1 to 255", c.Slots)
	}
	for _, t := range c.ResetTypes {
		if _, ok := resetVerbs[t]; !ok {
			return fmt.Errorf("reset types has %q, allowed are %s", t, strings.Join(allResetTypes, ", "))
		}
	}
	for i, s := range c.Systems {
		if s.ID == "" || strings.ContainsAny(s.ID, "/?#% ") {
			return fmt.Errorf("system %d: id is %q, allowed is a path segment", i, s.ID)
		}
		if slices.ContainsFunc(c.Systems[:i], func(o System) bool { return o.ID == s.ID }) {
			return fmt.Errorf("system %d: id %q is there twice", i, s.ID)
		}
	}
	for i, u := range c.Users {
		if u.Name == "" || strings.Contains(u.Name, ":") {
			return fmt.Errorf("user %d: name is %q, allowed is a name without colon", i, u.Name)
		}
	}
	return nil
}

// Server is one simulated service. Its methods are safe for concurrent use.
type Server struct {
	cfg   Config
	certs [2]tls.Certificate // the second is shown by OtherCertificate

	// work serialises the requests; it is held while a chassis is called, mu never is.
	work     sync.Mutex
	systems  []*system
	sessions []*session
	opened   uint64 // sessions so far
	failures map[string]strike
	tasks    []*task
	made     int // tasks so far

	mu     sync.Mutex
	dice   *rand.Rand
	faults Faults
	users  []bmc.User
	truth  []bmc.Entry
	reads  uint64
	ln     net.Listener
	wires  map[*wire]bool

	dark        bool // without mains, guarded by mu
	muted       atomic.Bool
	connections atomic.Int64
	requests    atomic.Int64
}

// New returns a service that does nothing yet. A bad Config is told by [Server.Listen].
func New(cfg Config) *Server {
	if cfg.Slots == 0 {
		cfg.Slots = 4
	}
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = time.Minute
	}
	if len(cfg.ResetTypes) == 0 {
		cfg.ResetTypes = allResetTypes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Systems = slices.Clone(cfg.Systems)
	if len(cfg.Systems) == 0 {
		cfg.Systems = []System{{}}
	}
	s := &Server{cfg: cfg, users: slices.Clone(cfg.Users), failures: map[string]strike{}, wires: map[*wire]bool{}, dice: rand.New(rand.NewPCG(cfg.Seed, cfg.Seed))}
	for i := range cfg.Systems {
		sys := &cfg.Systems[i]
		if sys.ID == "" {
			sys.ID = fmt.Sprint(i + 1)
		}
		if sys.Chassis == nil {
			sys.Chassis = bmc.NewChassis(bmc.ChassisConfig{On: true, Now: cfg.Now})
		}
		s.systems = append(s.systems, &system{System: *sys, name: cfg.Name})
		if len(cfg.Systems) > 1 {
			s.systems[i].name += "/" + sys.ID
		}
	}
	return s
}

// Listen checks the Config and opens the socket, so that Addr is known before Run. A
// second call does nothing. A server that listens and is never Run keeps its socket.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		return nil
	}
	if err := s.cfg.validate(); err != nil {
		return fmt.Errorf("listen redfish %s: %w", s.cfg.Name, err)
	}
	addr, err := netip.ParseAddrPort(s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen redfish %s: addr is %q, allowed is ip:port", s.cfg.Name, s.cfg.Addr)
	}
	for i := range s.certs {
		if s.certs[i], err = certificate(s.cfg.Seed, i, addr.Addr()); err != nil {
			return fmt.Errorf("listen redfish %s: %w", s.cfg.Name, err)
		}
	}
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		return fmt.Errorf("listen redfish %s: %w", s.cfg.Name, err)
	}
	s.ln = ln
	return nil
}

// Addr is the address in use, the zero value before Listen.
func (s *Server) Addr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln == nil {
		return netip.AddrPort{}
	}
	return s.ln.Addr().(*net.TCPAddr).AddrPort()
}

// Run serves until ctx ends, then closes every connection, waits for what it started
// and returns nil; any other end is an error. It listens first if nobody has. Call it once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	ln := net.Listener(listener{s.ln, s})
	if !s.cfg.Plain {
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				if s.Faults().OtherCertificate {
					return &s.certs[1], nil
				}
				return &s.certs[0], nil
			},
		})
	}
	var conns sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serve), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: time.Minute, IdleTimeout: 10 * time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // clients that hang up are what it is there for
		ConnState: func(_ net.Conn, st http.ConnState) {
			switch st {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Done()
			}
		},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = srv.Close() // ends Serve below, its only purpose
	})
	err := srv.Serve(ln)
	if !stop() {
		<-stopped
	}
	_ = srv.Close()
	conns.Wait()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve redfish %s: %w", s.cfg.Name, err)
}

// SetUsers replaces the accounts; open sessions go on.
func (s *Server) SetUsers(users []bmc.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = slices.Clone(users)
}

// SetMains takes the controller's own power away or gives it back. Without it the
// service is mute whatever its faults; with it again it has restarted. Safe from inside
// a chassis of another server.
func (s *Server) SetMains(on bool) {
	s.mu.Lock()
	back := on && s.dark
	s.dark = !on
	s.muted.Store(s.faults.Mute || s.dark)
	s.mu.Unlock()
	if back {
		s.Restart()
	}
}

// Restart forgets sessions, lock-outs and tasks and ends every connection, as a
// controller whose own power came back.
func (s *Server) Restart() {
	s.work.Lock()
	s.sessions, s.tasks = nil, nil
	clear(s.failures)
	s.work.Unlock()
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.wires))
	s.mu.Unlock()
	for _, w := range open {
		_ = w.Close() // its handler finds out, its only purpose
	}
}

// Truth returns the commands received so far, oldest first. The slice is the caller's.
func (s *Server) Truth() []bmc.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.truth)
}

// Reads returns how many readings of a system were carried out, whatever was said.
func (s *Server) Reads() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Sessions counts the open sessions.
func (s *Server) Sessions() int {
	s.work.Lock()
	defer s.work.Unlock()
	s.expire(s.cfg.Now())
	return len(s.sessions)
}

// Connections and Requests count what was accepted since the start.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Requests: see Connections.
func (s *Server) Requests() int { return int(s.requests.Load()) }

func (s *Server) record(e bmc.Entry) {
	e.At = s.cfg.Now()
	s.mu.Lock()
	s.truth = append(s.truth, e)
	s.mu.Unlock()
	if s.cfg.OnCommand != nil {
		s.cfg.OnCommand(e)
	}
}
