// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxBody   = 256 << 10
	maxHeader = 32 << 10
	maxEarly  = 5 // 1xx answers before the answer
)

var (
	errFingerprint = errors.New("the certificate is not the pinned one")
	errOversized   = errors.New("the answer is too large")
	errMalformed   = errors.New("the answer is not HTTP")
)

// link is one connection to the service, used by one goroutine at a time.
type link struct {
	tcp         *net.TCPConn
	sock        net.Conn // TLS over tcp, or tcp itself
	in          io.LimitedReader
	buf         *bufio.Reader
	fingerprint string

	answered bool      // it carried an answer before: the peer may have closed it since
	final    bool      // it is of no use after its last answer
	last     time.Time // when the last answer arrived
}

// dial connects and checks the certificate; not a byte of HTTP is sent. It ends when
// ctx does.
func dial(ctx context.Context, c config) (*link, error) {
	var d net.Dialer
	sock, err := d.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	l := &link{tcp: sock.(*net.TCPConn), sock: sock}
	if err := l.dropLate(c.limits.Packet); err != nil {
		l.close(true)
		return nil, err
	}
	if c.mode != tlsOff {
		t := tls.Client(sock, c.tls(&l.fingerprint))
		if err := t.HandshakeContext(ctx); err != nil {
			l.close(true)
			return nil, err
		}
		l.sock = t
	}
	l.in.R = l.sock
	l.buf = bufio.NewReaderSize(&l.in, 4<<10)
	return l, nil
}

// dropLate has the kernel give the connection up when something sent is not taken for
// that long: a command must not arrive after its lease has ended.
func (l *link) dropLate(after time.Duration) error {
	raw, err := l.tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
	return errors.Join(err, set)
}

// tls makes the client side's settings; the certificate is checked before any other
// byte is sent, and its fingerprint left in seen.
func (c config) tls(seen *string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: c.host, RootCAs: c.ca, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: c.mode != tlsCA, // pin compares below, insecure was asked for
		VerifyConnection: func(st tls.ConnectionState) error {
			if len(st.PeerCertificates) == 0 {
				return errFingerprint
			}
			sum := sha256.Sum256(st.PeerCertificates[0].Raw)
			*seen = hex.EncodeToString(sum[:])
			if slices.ContainsFunc(c.certs, func(want string) bool { return want != *seen }) {
				return fmt.Errorf("%w: it is %s", errFingerprint, *seen)
			}
			return nil
		},
	}
}

// untrusted reports whether the certificate was what ended a handshake.
func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.Is(err, errFingerprint) || errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &invalid)
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
	final  bool // the peer closes after it
}

// send carries one request and reads its answer until ctx ends. After an error the
// link is of no use any more. heard says that at least a byte of an answer came.
func (l *link) send(ctx context.Context, req *http.Request) (rep *reply, heard bool, err error) {
	var out bytes.Buffer
	if err := req.Write(&out); err != nil {
		return nil, false, fmt.Errorf("write request: %w", err)
	}
	deadline, _ := ctx.Deadline() // the zero time is no deadline
	if err := l.sock.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = l.tcp.SetDeadline(time.Unix(1, 0)) // wakes the calls below, its only purpose
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	if _, err := l.sock.Write(out.Bytes()); err != nil {
		return nil, false, err
	}
	l.in.N = maxHeader + maxBody + 1
	if _, err := l.buf.Peek(1); err != nil {
		return nil, false, err
	}
	rep, err = read(l.buf, req)
	if err != nil && l.in.N <= 0 {
		err = errOversized
	}
	if err != nil {
		return nil, true, err
	}
	l.final = rep.final || l.buf.Buffered() > 0 // what comes unasked belongs to no request
	l.answered, l.last = true, time.Now()
	return rep, true, nil
}

// read takes one answer off buf. Errors of the network come as they are, anything else
// is errMalformed or errOversized.
func read(buf *bufio.Reader, req *http.Request) (*reply, error) {
	for range maxEarly {
		resp, err := http.ReadResponse(buf, req)
		if err != nil {
			return nil, malformed(err)
		}
		switch {
		case resp.StatusCode < 100 || resp.StatusCode > 599:
			return nil, errMalformed
		case resp.StatusCode < 200:
			continue
		case resp.ContentLength > maxBody:
			return nil, errOversized
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		if err == nil {
			err = resp.Body.Close()
		}
		switch {
		case len(body) > maxBody:
			return nil, errOversized
		case err != nil:
			return nil, malformed(err)
		}
		return &reply{status: resp.StatusCode, header: resp.Header, body: body, final: resp.Close}, nil
	}
	return nil, errMalformed
}

// malformed keeps errors of the network and replaces those of the parser, whose text is
// the peer's.
func malformed(err error) error {
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return errMalformed
}

// hungUp reports whether the peer has ended the connection.
func hungUp(err error) bool {
	return !errors.Is(err, os.ErrDeadlineExceeded) &&
		(errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// close ends the connection without a farewell, which could block. A hard close drops
// what the kernel has not delivered yet.
func (l *link) close(hard bool) {
	if hard {
		_ = l.tcp.SetLinger(0) // without it the close below is still a close
	}
	_ = l.tcp.Close() // a socket that fails to close is gone all the same
}
