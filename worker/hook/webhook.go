// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Headers of a signed delivery, those of Standard Webhooks: the signature is `v1,` and the
// base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`; the timestamp is in seconds since
// 1970 and new at every attempt.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	maxRedirects = 3
	maxRetryHint = time.Hour // of Retry-After
	maxAnswer    = 64 << 10  // read and dropped, so that the connection can be used again
)

// Sender hands one event to a receiver. An error means that it may or may not have it;
// it is sent again. Send keeps within the context.
type Sender interface {
	Send(ctx context.Context, d Delivery) error
	Close()
}

// RefusedError is an answer that is no success.
type RefusedError struct {
	Status int
	After  time.Duration // not before; 0: as usual
	Gone   bool          // the receiver wants nothing any more: 410
}

func (e *RefusedError) Error() string {
	if e.Gone {
		return fmt.Sprintf("the receiver answers %d %s: it wants no more events", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the receiver answers %d %s, allowed is 2xx", e.Status, http.StatusText(e.Status))
}

type webhook struct {
	url    string
	key    []byte
	now    func() time.Time
	client *http.Client
}

// NewWebhook makes a sender that POSTs to a URL that ParseURL has accepted and signs with
// key. The receiver proves itself to the authorities in ca (PEM), or to the system's.
// Redirects are followed at the same scheme and host only. Close wipes the key.
func NewWebhook(rawURL string, key []byte, ca string, version string, now func() time.Time) (Sender, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("ca: no certificate in it can be read")
		}
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSClientConfig: conf,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second,
	}
	return &webhook{url: rawURL, key: bytes.Clone(key), now: now, client: &http.Client{Transport: agentName{t, "holdfast/" + version}, CheckRedirect: sameOrigin}}, nil
}

// agentName says who sends, also after a redirect.
type agentName struct {
	*http.Transport
	name string
}

func (a agentName) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", a.name)
	return a.Transport.RoundTrip(r)
}

// sameOrigin lets nobody send an event, its signature and its key's traces elsewhere.
func sameOrigin(r *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case r.URL.Scheme != first.URL.Scheme || r.URL.Host != first.URL.Host:
		return fmt.Errorf("a redirect to %s://%s, allowed is %s://%s only", r.URL.Scheme, r.URL.Host, first.URL.Scheme, first.URL.Host)
	case r.Method != http.MethodPost:
		return errors.New("a redirect that drops the event (301, 302, 303), allowed are 307 and 308")
	}
	return nil
}

// Sign is the signature of a body as it is in HeaderSignature.
func Sign(key []byte, id string, at time.Time, body []byte) string {
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%d.", id, at.Unix())
	m.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

func (h *webhook) Send(ctx context.Context, d Delivery) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(d.Body))
	if err != nil {
		return errors.New("the URL cannot be used") // the error itself repeats it
	}
	at := h.now()
	r.Header.Set("Content-Type", contentType)
	r.Header.Set(HeaderID, d.ID)
	r.Header.Set(HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(HeaderSignature, Sign(h.key, d.ID, at, d.Body))
	resp, err := h.client.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // what it says besides is not for us
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &RefusedError{Status: resp.StatusCode, Gone: resp.StatusCode == http.StatusGone, After: retryAfter(resp.Header.Get("Retry-After"), at)}
}

// withoutURL is the cause of a failed request; http puts the whole URL in front of it.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return errors.New("no answer in time")
		}
		return u.Err
	}
	return err
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	n, err := strconv.Atoi(text)
	d := time.Duration(n) * time.Second
	if err != nil {
		at, err := http.ParseTime(text)
		if err != nil {
			return 0
		}
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryHint))
}

func (h *webhook) Close() {
	clear(h.key)
	h.client.CloseIdleConnections()
}
