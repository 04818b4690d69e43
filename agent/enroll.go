// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	enrolLimit = 10 * time.Second // of one call
	enrolEvery = 5 * time.Second  // between attempts, jittered, at first; up to enrolMost
	enrolMost  = 5 * time.Minute
	trustDir   = "trust"
	present    = "current" // link to the directory of the files in use
)

// enrolment keeps this host's certificate in StateDir/trust: each one with its key in a
// directory of its own, a link to the one in use. A crash leaves the old one or the new
// one, whole.
type enrolment struct {
	dir, token string
	key        *ecdsa.PrivateKey // of a join that is under way: an answer that was lost is asked for again
	ready      chan struct{}     // closed when there is a certificate
}

func newEnrolment(o Options) *enrolment {
	return &enrolment{dir: filepath.Join(o.StateDir, trustDir), token: o.JoinToken, ready: make(chan struct{})}
}

func filesIn(dir string) trust.Files {
	return trust.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "host.crt"), Key: filepath.Join(dir, "host.key")}
}

// open takes what an earlier process was given. Nothing at all is no error, nor is what
// cannot be used: a join token mends it.
func (e *enrolment) open(a *Agent) error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fmt.Errorf("make directory for the certificate: %w", err)
	}
	o := a.opts
	o.TLS = filesIn(filepath.Join(e.dir, present))
	if _, err := os.Stat(o.TLS.Cert); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	src, err := openTrust(o)
	if err != nil {
		o.Logger.Error("certificate of this host cannot be used, waiting for a join token", "file", e.token, "cause", err)
		return nil
	}
	a.believe(src)
	close(e.ready)
	return nil
}

// enrolled waits until there is a certificate; at once where that is not the agent's own
// business. It says whether ctx is still alive.
func (a *Agent) enrolled(ctx context.Context) bool {
	if a.enrol == nil {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-a.enrol.ready:
		return true
	}
}

// enrolLoop gets this host's first certificate and every one after it.
func (a *Agent) enrolLoop(ctx context.Context) error {
	said := ""
	for failures := 0; ; {
		wait, err := a.enrolStep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures, said = 0, ""
		default:
			wait = min(enrolEvery<<min(failures, 8), enrolMost)
			wait += time.Duration(mrand.Int64N(int64(wait / 4)))
			failures++
			if err.Error() != said {
				a.opts.Logger.Warn("no certificate was issued", "cause", err, "retry_in", wait)
				said = err.Error()
			}
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// enrolStep does what is due now and says when to look again.
func (a *Agent) enrolStep(ctx context.Context) (time.Duration, error) {
	e, certs := a.enrol, a.trust.Load()
	token, fresh, err := e.read()
	if err != nil && certs == nil {
		return 0, err
	}
	now := time.Now()
	if certs == nil || fresh || now.After(certs.State().NotAfter) {
		if err != nil {
			return 0, err
		}
		return time.Second, a.join(ctx, token)
	}
	if wait := untilRenewal(certs.State(), now, mrand.Float64()); wait > 0 {
		return wait, nil
	}
	return time.Second, a.renew(ctx)
}

// untilRenewal is after how long it is looked again whether a certificate is to be renewed, which
// it is at two thirds of its life (agents.md "Trust"), or whether there is a new join token, which
// is looked for once a minute. 0: it is to be renewed now. Jitter, in [0,1), keeps agents apart
// that were enrolled together.
func untilRenewal(c trust.State, now time.Time, jitter float64) time.Duration {
	left := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3).Sub(now)
	if left <= 0 {
		return 0
	}
	return min(left+time.Duration(jitter*float64(time.Minute)), time.Minute)
}

// read reads the join token. fresh says that it came after the certificate in use.
func (e *enrolment) read() (t trust.JoinToken, fresh bool, err error) {
	text, err := os.ReadFile(e.token)
	if err != nil {
		return t, false, fmt.Errorf("read join token: %w", err)
	}
	if t, err = trust.ParseJoinToken(string(text)); err != nil {
		return t, false, fmt.Errorf("%s: %w", e.token, err)
	}
	last, err := readState(filepath.Join(e.dir, "token"))
	if err != nil {
		return t, false, fmt.Errorf("read which join token was used: %w", err)
	}
	return t, strings.TrimSpace(string(last)) != t.ID, nil
}

// join asks the workers for a first certificate, one after the other, until one gives it
// or says no.
func (a *Agent) join(ctx context.Context, t trust.JoinToken) error {
	e := a.enrol
	if e.key == nil {
		key, err := newKey()
		if err != nil {
			return err
		}
		e.key = key
	}
	csr, err := request(e.key)
	if err != nil {
		return err
	}
	issued, err := a.askWorkers(ctx, func(host string) (credentials.TransportCredentials, error) {
		return credentials.NewTLS(trust.Joiner(t.Pin, host, time.Now)), nil
	}, func(ctx context.Context, c agentpb.EnrollClient) (*agentpb.Issued, error) {
		return c.Join(ctx, &agentpb.JoinRequest{Host: a.opts.Host, Token: t.ID, Secret: t.Secret, Csr: csr})
	})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := e.keep(a, issued, e.key); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	e.key = nil
	if err := writeState(filepath.Join(e.dir, "token"), []byte(t.ID+"\n")); err != nil {
		return fmt.Errorf("join: note which token was used: %w", err)
	}
	return nil
}

// renew asks for another certificate with the present one.
func (a *Agent) renew(ctx context.Context) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	issued, err := a.askWorkers(ctx, func(host string) (credentials.TransportCredentials, error) {
		return credentials.NewTLS(a.trust.Load().Dialer(trust.Peer{Role: trust.Worker, Name: host})), nil
	}, func(ctx context.Context, c agentpb.EnrollClient) (*agentpb.Issued, error) {
		return c.Renew(ctx, &agentpb.RenewRequest{Csr: csr})
	})
	if err == nil {
		err = a.enrol.keep(a, issued, key)
	}
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

func request(key *ecdsa.PrivateKey) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// askWorkers makes one call to one worker after the other until one answers. A no is an
// answer; the error tells of the last one asked.
func (a *Agent) askWorkers(ctx context.Context, secure func(host string) (credentials.TransportCredentials, error), ask func(context.Context, agentpb.EnrollClient) (*agentpb.Issued, error)) (*agentpb.Issued, error) {
	var last error
	for _, address := range a.workers.addresses() {
		issued, err := a.askWorker(ctx, address, secure, ask)
		if err == nil {
			return issued, nil
		}
		last = fmt.Errorf("worker %s: %w", address, err)
		if status.Code(err) == codes.PermissionDenied {
			return nil, fmt.Errorf("worker %s: %s", address, status.Convert(err).Message())
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func (a *Agent) askWorker(ctx context.Context, address string, secure func(string) (credentials.TransportCredentials, error), ask func(context.Context, agentpb.EnrollClient) (*agentpb.Issued, error)) (*agentpb.Issued, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolLimit)
	defer cancel()
	host, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	creds, err := secure(host)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return a.opts.Dial(ctx, address) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(frame.Max)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return ask(ctx, agentpb.NewEnrollClient(conn))
}

// keep writes what was issued, after the same checks as files of others have, and uses it
// from the next handshake on.
func (e *enrolment) keep(a *Agent, issued *agentpb.Issued, key *ecdsa.PrivateKey) error {
	name := fmt.Sprintf("c%d", time.Now().UnixNano())
	dir := filepath.Join(e.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("keep certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	defer clear(der)
	var authorities []byte
	for _, c := range issued.Authorities {
		authorities = append(authorities, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	f := filesIn(dir)
	o := a.opts
	o.TLS = f
	err = errors.Join(
		writeState(f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		writeState(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Certificate})),
		writeState(f.CA, authorities),
	)
	if err == nil {
		_, err = openTrust(o) // is it ours, for this key, and signed by whom we are to believe?
	}
	if err != nil {
		return fmt.Errorf("keep certificate: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	link := filepath.Join(e.dir, present)
	before, _ := os.Readlink(link) // none: the first one
	if err := errors.Join(os.Symlink(name, link+".new"), os.Rename(link+".new", link)); err != nil {
		return fmt.Errorf("keep certificate: %w", errors.Join(err, os.RemoveAll(link+".new"), os.RemoveAll(dir)))
	}
	o.TLS = filesIn(link)
	certs := a.trust.Load()
	if certs == nil {
		if certs, err = openTrust(o); err != nil {
			return fmt.Errorf("keep certificate: %w", err)
		}
		a.believe(certs)
		close(e.ready)
	}
	c := certs.State() // looks at the new files
	a.opts.Logger.Info("certificate issued", "until", c.NotAfter.UTC())
	return e.tidy(name, before)
}

// tidy removes all certificates but the one in use and the one before it, which a
// handshake may be reading.
func (e *enrolment) tidy(keep ...string) error {
	all, err := os.ReadDir(e.dir)
	if err != nil {
		return fmt.Errorf("tidy certificates: %w", err)
	}
	for _, f := range all {
		if f.IsDir() && f.Name() != keep[0] && f.Name() != keep[1] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(e.dir, f.Name())))
		}
	}
	return err
}
