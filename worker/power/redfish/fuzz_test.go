// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// FuzzBody: no body panics a parser, and OFF is read only from a JSON object whose
// PowerState another reader takes for Off as well.
func FuzzBody(f *testing.F) {
	f.Add(fmt.Appendf(nil, goodSystem, "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"))
	for _, s := range []string{
		`{"PowerState":"Off","PowerState":"On"}`, `{"PowerState":null}`, `{"PowerState":"Off"}`, `{"PowerState":"Off"`, `{"PowerSt\u0061te":"Off"}`,
		`{"Actions":{"#ComputerSystem.Reset":{"target":"/x","ResetType@Redfish.AllowableValues":["On"]}}}`,
		`{"Parameters":[{"Name":"ResetType","AllowableValues":["On"]}]}`, `{"TaskState":"Exception"}`,
		`{"error":{"code":"Base.1.8.GeneralError","message":"x","@Message.ExtendedInfo":[{"MessageId":"y","Message":"already"}]}}`,
		`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseFailure(b)
		parseTask(b)
		_, _ = parseInfo(b)
		_, _ = systemsLink(b)
		s, err := parseSystem(b)
		if err != nil {
			return
		}
		_, _ = config{address: "192.0.2.1:443", host: "192.0.2.1"}.local(s.target)
		if state, _, err := s.power(); err != nil || state != corepower.Off {
			return
		}
		var other map[string]any
		if err := json.Unmarshal(b, &other); err != nil || other["PowerState"] != "Off" {
			t.Errorf("OFF from %q: another reader says %v, %v", b, other["PowerState"], err)
		}
	})
}

// FuzzAnswer: no bytes on the wire panic the reader of answers, and it keeps its bounds.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n{\"PowerState\":\"Off\"}"))
	f.Add([]byte("HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &io.LimitedReader{R: bytes.NewReader(b), N: maxHeader + maxBody + 1}
		rep, err := read(bufio.NewReader(in), &http.Request{Method: http.MethodGet})
		if err != nil {
			return
		}
		if len(rep.body) > maxBody || rep.status < 200 {
			t.Errorf("status %d, %d bytes", rep.status, len(rep.body))
		}
		c := &conn{}
		if e := c.refused("read", rep, true); len(e.Detail) > 300 || e.RetryAfter < 0 || e.RetryAfter > retryAuth {
			t.Errorf("%+v", e)
		}
	})
}
