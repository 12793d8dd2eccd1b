/* Looks at report pages in frames as wide as a phone, a tablet and a screen, and writes what is wrong with them into the
 * document, a line each, for `chromium --dump-dom`. The frames and SCHEME come from tests/check_pages.sh. */
(function () {
    'use strict';
    var LEAST_LETTERS = 11, found = [], looked = 0;

    function all(selector, from) { return [].slice.call(from.querySelectorAll(selector)); }

    /* Colours as [r, g, b, a], and how far apart they are (WCAG 2.1). */
    function color(text) {
        var m = /rgba?\(([^)]*)\)/.exec(text);
        if (!m) return [0, 0, 0, 0];
        var parts = m[1].split(/[ ,/]+/).map(Number);
        return [parts[0], parts[1], parts[2], parts.length > 3 ? parts[3] : 1];
    }
    function luminance(c) {
        var linear = c.slice(0, 3).map(function (x) {
            x /= 255;
            return x <= 0.03928 ? x / 12.92 : Math.pow((x + 0.055) / 1.055, 2.4);
        });
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    }
    function contrast(a, b) {
        var x = luminance(a), y = luminance(b);
        return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    }
    function ground(node, view) { /* of HTML: the first ancestor that is painted */
        for (; node; node = node.parentElement) {
            var c = color(view.getComputedStyle(node).backgroundColor);
            if (c[3] === 1) return c;
        }
        return [255, 255, 255, 1];
    }

    function check(doc, view, width, say) {
        var root = doc.documentElement, page = doc.body;
        if (view.matchMedia('(prefers-color-scheme: dark)').matches !== (SCHEME === 'dark')) say('the scheme is not ' + SCHEME);
        if (root.scrollWidth > width) say('the page is ' + root.scrollWidth + ' wide');
        all('details', doc).forEach(function (d) { d.open = true; });

        /* every text of the page: inside of it, large enough, apart from its ground */
        var walker = doc.createTreeWalker(page, NodeFilter.SHOW_TEXT), texts = [], node;
        while ((node = walker.nextNode())) texts.push(node);
        texts.forEach(function (text) {
            var at = text.parentElement, words = text.textContent.trim();
            if (!words || at.closest('script, style, title, svg')) return;
            var style = view.getComputedStyle(at), size = parseFloat(style.fontSize);
            var box = at.getBoundingClientRect();
            if (style.display === 'none' || !box.width) return;
            if (!at.closest('.scroll') && box.right > width + 1) say('"' + words.slice(0, 30) + '" ends at ' + box.right);
            if (size < LEAST_LETTERS) say('"' + words.slice(0, 30) + '" is ' + size + ' px');
            var ratio = contrast(color(style.color), ground(at, view));
            if (ratio < 4.5) say('"' + words.slice(0, 30) + '" has a contrast of ' + ratio.toFixed(2));
        });

        if (all('.answer', doc).length !== 4) say('the first screen has not four answers');
        all('.answer', doc).forEach(function (answer) {
            if (answer.textContent.trim().length < 30) say('an answer is empty: ' + answer.textContent);
        });
        all('figure.picture', doc).forEach(function (figure) { checkPicture(figure, doc, view, say); });
        all('figure.table', doc).forEach(function (figure) { checkTable(figure, view, say); });
    }

    function checkPicture(figure, doc, view, say) {
        var svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
        var scale = box.width / svg.viewBox.baseVal.width, name = svg.getAttribute('aria-label') || '?';
        var tip = doc.getElementById('tip');
        function complain(what) { say(name.slice(0, 50) + ': ' + what); }
        if (/gnuplot|using |\$/.test(svg.textContent)) complain('source code in it');
        all('text', svg).forEach(function (text) {
            var at = text.getBoundingClientRect(), words = text.textContent.trim(), size;
            if (!words || !at.width) return;
            size = parseFloat(view.getComputedStyle(text).fontSize) * scale;
            if (size < LEAST_LETTERS) complain('"' + words + '" is ' + size.toFixed(2) + ' px');
            if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)
                complain('"' + words + '" is cut');
            var back = ground(figure.querySelector('.card'), view);
            doc.elementsFromPoint(at.left + at.width / 2, at.top + at.height / 2).some(function (under) {
                if (under.tagName !== 'polygon' && under.tagName !== 'rect') return false;
                var style = view.getComputedStyle(under), fill = color(style.fill);
                if (style.fill === 'none' || +style.fillOpacity < 0.99) return false;
                back = fill;
                return true;
            });
            var ratio = contrast(color(view.getComputedStyle(text).fill), back);
            if (ratio < 4.5) complain('"' + words + '" has a contrast of ' + ratio.toFixed(2));
        });

        /* pointing, and the arrow keys */
        var marks = all('.tips circle', svg);
        if (!marks.length) complain('nothing in it can be pointed at');
        [0, Math.floor(marks.length / 2), marks.length - 1].forEach(function (i) {
            if (!marks[i]) return;
            var at = marks[i].getBoundingClientRect();
            var where = { clientX: at.left + at.width / 2, clientY: at.top + at.height / 2, bubbles: true };
            svg.dispatchEvent(new view.PointerEvent('pointermove', where));
            if (/gnuplot|using |\$/.test(tip.textContent)) complain('source code in its bubble');
            if (tip.hidden || !/\d/.test(tip.textContent)) complain('pointing at mark ' + i + ' says "' + tip.textContent + '"');
            var bubble = tip.getBoundingClientRect();
            if (bubble.left < 0 || bubble.right > doc.documentElement.clientWidth + 1) complain('its bubble leaves the page');
        });
        svg.dispatchEvent(new view.PointerEvent('pointerleave', {}));
        if (!tip.hidden) complain('the bubble stays when the pointer leaves');
        svg.dispatchEvent(new view.KeyboardEvent('keydown', { key: 'ArrowRight' }));
        if (tip.hidden || !/\d/.test(tip.textContent)) complain('the arrow keys say nothing');
        svg.dispatchEvent(new view.KeyboardEvent('keydown', { key: 'Escape' }));
        if (!tip.hidden) complain('Escape does not close the bubble');

        /* the key: every line once, and it switches its series */
        var seen = {};
        all('.key', svg).forEach(function (key) {
            var words = key.textContent.trim();
            if (seen[words]) complain('two lines of the key are "' + words + '"');
            seen[words] = true;
            var series = key.parentNode.getAttribute('data-s');
            if (series === null) return;
            key.dispatchEvent(new view.MouseEvent('click', { bubbles: true }));
            var shown = all('[data-s="' + series + '"] > *:not(.key)', svg).filter(function (part) {
                return part.getBoundingClientRect().width > 0;
            });
            if (shown.length) complain('"' + words + '" cannot be switched off');
            key.dispatchEvent(new view.MouseEvent('click', { bubbles: true }));
            if (all('.off', svg).length) complain('"' + words + '" stays off');
        });
        if (!figure.querySelector('a') && !figure.closest('.row').querySelector('a')) complain('no link to its file');
    }

    function checkTable(figure, view, say) {
        var table = figure.querySelector('table'), rows = [].slice.call(table.tBodies[0].rows);
        var box = figure.querySelector('.filter'), head = table.tHead.rows[0].cells;
        var name = figure.textContent.trim().slice(0, 30);
        if (!figure.querySelector('figcaption a')) say(name + ': no CSV beside it');
        if ((rows.length > 20) !== !!box) say(name + ': ' + rows.length + ' rows and ' + (box ? 'a' : 'no') + ' filter');
        if (view.getComputedStyle(head[0]).position !== 'sticky') say(name + ': its head does not stay');
        if (!box) return;
        box.value = 'no such words anywhere';
        box.dispatchEvent(new view.Event('input'));
        if (rows.some(function (row) { return !row.hidden; })) say(name + ': the filter hides nothing');
        box.value = rows[3].cells[0].textContent;
        box.dispatchEvent(new view.Event('input'));
        if (rows[3].hidden) say(name + ': the filter hides what was asked for');
        box.value = '';
        box.dispatchEvent(new view.Event('input'));
        if (rows.some(function (row) { return row.hidden; })) say(name + ': an empty filter hides rows');
    }

    function runAxe(view, say) {
        view.eval(window.AXE);
        return view.axe.run(view.document, { resultTypes: ['violations'] }).then(function (result) {
            result.violations.forEach(function (v) {
                say('axe ' + v.id + ' (' + v.impact + ', ' + v.nodes.length + '): ' + v.nodes[0].html.slice(0, 160));
            });
        });
    }

    function report() {
        var out = document.querySelector('pre') || document.body.appendChild(document.createElement('pre'));
        out.textContent = found.join('\n') + '\nLOOKED ' + looked + '\n';
    }

    /* The load event waits for all frames, and the browser prints the document when it is over: nothing here waits, but axe. */
    window.addEventListener('load', function () {
        var chain = Promise.resolve();
        all('iframe', document).forEach(function (frame) {
            var doc = frame.contentDocument, view = frame.contentWindow, width = +frame.dataset.width;
            function say(what) { found.push('FAIL ' + frame.dataset.page + ' ' + width + ' ' + SCHEME + ': ' + what); }
            frame.style.height = doc.documentElement.scrollHeight + 3000 + 'px'; /* all of it can be pointed at */
            try {
                check(doc, view, width, say);
            } catch (error) {
                say(String(error.stack || error));
            }
            looked++;
            if (window.AXE) chain = chain.then(function () { return runAxe(view, say); });
        });
        report();
        chain.then(report);
    });
}());
